"""What this machine offers to a runner."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import psutil

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def compute_threads() -> int:
    """Threads that can compute at full speed: physical cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    physical = psutil.cpu_count(logical=False)
    return max(1, min(n for n in (allowed, physical, os.cpu_count()) if n))


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
