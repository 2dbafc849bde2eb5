"""The processor: its name, what it can do, and which of its cores are this process's."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

_INFORMATION = "proc/cpuinfo"
_SIBLINGS = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
# Instructions that matrix kernels are written with: x86-64's, then Arm's, the oldest first.
KERNEL_FEATURES = (
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vbmi",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
    "sme",
)


@dataclass(frozen=True, slots=True)
class Processor:
    """What is known of it.

    Attributes:
        name: As it calls itself.
        features: The flags that the system names, such as "avx2"; none where it names none.
    """

    name: str
    features: frozenset[str]

    @classmethod
    def read(cls, root: Path = Path("/")) -> Processor:
        """Ask the system; `root` is where /proc is."""
        names, features = [], frozenset[str]()
        for line in _lines(root / _INFORMATION):
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                names.append(value.strip())
            elif key.strip() in {"flags", "Features"} and not features:
                features = frozenset(value.split())
        name = next(iter(names), "") or platform.processor() or platform.machine()
        return cls(name, features)

    @property
    def kernel_features(self) -> tuple[str, ...]:
        """Those of the features that matrix kernels are written with."""
        return tuple(name for name in KERNEL_FEATURES if name in self.features)


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
    """The logical cores that share a core with one; none where the system does not tell."""
    return _numbers(next(iter(_lines(root / _SIBLINGS.format(number))), ""))


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


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
