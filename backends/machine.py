"""What this machine offers to a runner."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path

import psutil

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_CGROUP_USE = Path("/sys/fs/cgroup/memory.current")
_CGROUP_STAT = Path("/sys/fs/cgroup/memory.stat")
_CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")
_VMSTAT = Path("/proc/vmstat")


def logical_cores() -> int:
    """Logical cores that this process may use: two for each physical one with SMT.

    No more than a container's share of the time: threads beyond it are stopped
    again and again, and the others wait for them.
    """
    return min((n for n in (len(allowed_cores()), _cgroup_cores()) if n), default=1)


def allowed_cores() -> list[int]:
    """The numbers of the logical cores that this process may be put on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def compute_threads() -> int:
    """Threads that can compute at full speed: physical cores that this process may use."""
    return min(logical_cores(), psutil.cpu_count(logical=False) or logical_cores())


def core_seconds_of_others() -> float:
    """What other processes have had so far of the cores that this one may be put on."""
    times = psutil.cpu_times(percpu=True)
    # What a hypervisor takes for itself is not counted: fewer threads would not help.
    busy = sum(
        core.user + core.system + core.nice + getattr(core, "irq", 0) + getattr(core, "softirq", 0)
        for core in (times[number] for number in allowed_cores() if number < len(times))
    )
    return busy - time.process_time()


def available_memory() -> int:
    """Bytes that can be taken without making the machine swap, or a container's limit be met."""
    available = psutil.virtual_memory().available
    try:
        limit = int(_CGROUP_LIMIT.read_text()) - _cgroup_bytes()
    except (OSError, ValueError):
        return available
    return max(min(available, limit), 0)


def oom_kills() -> int:
    """Processes that this machine's system has killed for want of memory; 0 where it is no Linux.

    A container's limit counts too.
    """
    try:
        return _fields(_VMSTAT).get("oom_kill", 0)
    except (OSError, ValueError):
        return 0


def _cgroup_bytes() -> int:
    """What the container holds, without the files' pages that can be dropped."""
    dropped = _fields(_CGROUP_STAT).get("inactive_file", 0)
    return max(int(_CGROUP_USE.read_text()) - dropped, 0)


def _cgroup_cores() -> int | None:
    """The whole cores that a container's share of the time comes to, at least 1; None for all."""
    try:
        quota, period = map(int, _CGROUP_CPU.read_text().split())
    except (OSError, ValueError):
        return None  # there is no such file, or it says "max"
    return max(quota // period, 1)


def _fields(path: Path) -> dict[str, int]:
    """A file of lines of a name and a number."""
    return {name: int(value) for name, value in map(str.split, path.read_text().splitlines())}


def memory_within(limit: int | None) -> int:
    """Bytes that can be taken of this machine's memory, and no more than `limit`."""
    available = available_memory()
    return available if limit is None else min(available, limit)


def apple_silicon() -> bool:
    """Whether there is a GPU that shares this machine's memory."""
    return sys.platform == "darwin" and platform.machine() == "arm64"
