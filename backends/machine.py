"""What this machine offers to a runner."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import psutil

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def logical_cores() -> int:
    """Logical cores that this process may use: two for each physical one with SMT."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(allowed or 1, os.cpu_count() or 1)


def compute_threads() -> int:
    """Threads that can compute at full speed: physical cores that this process may use."""
    return min(logical_cores(), psutil.cpu_count(logical=False) or logical_cores())


def available_memory() -> int:
    """Bytes that can be taken without making the machine swap, or a container's limit be met."""
    available = psutil.virtual_memory().available
    try:
        limit = int(_CGROUP_LIMIT.read_text())
    except (OSError, ValueError):
        return available
    return min(available, limit)


def apple_silicon() -> bool:
    """Whether there is a GPU that shares this machine's memory."""
    return sys.platform == "darwin" and platform.machine() == "arm64"
