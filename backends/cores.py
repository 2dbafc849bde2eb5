"""The logical and physical cores that this process may use."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

_SIBLINGS = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def allowed_cores() -> list[int]:
    """The numbers of the logical cores that this process may be put on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def physical_cores(allowed: Iterable[int], root: Path = Path("/")) -> int:
    """Physical cores among logical ones: SMT siblings share one core's units.

    Args:
        allowed: Numbers of logical cores.
        root: Where /sys is. Where it does not tell, the system's own count is taken.
    """
    logical = set(allowed)
    siblings = [_siblings(number, root) for number in logical]
    if all(siblings):
        return len({min(group & logical) for group in siblings if group & logical})
    return min(psutil.cpu_count(logical=False) or len(logical), len(logical))


def apple_silicon() -> bool:
    """Whether there is a GPU that shares this machine's memory."""
    return sys.platform == "darwin" and platform.machine() == "arm64"


def _siblings(number: int, root: Path) -> frozenset[int]:
    """Return the logical cores that share a physical core; none if unknown."""
    try:
        text = (root / _SIBLINGS.format(number)).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return frozenset()
    return _numbers(text)


def _numbers(text: str) -> frozenset[int]:
    """A list such as "0,64" or "0-3,8"; none where it is not one."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        try:
            numbers.update(range(int(first), int(last if dash else first) + 1))
        except ValueError:
            return frozenset()
    return frozenset(numbers)
