"""Reports the cores and the memory of this machine that a runner can use."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from llm_serving_engine.backends.control_groups import ControlGroups, fields
from llm_serving_engine.backends.cores import allowed_cores, apple_silicon, physical_cores

__all__ = [
    "allowed_cores",
    "apple_silicon",
    "available_memory",
    "compute_threads",
    "core_seconds_of_others",
    "core_seconds_of_strangers",
    "logical_cores",
    "memory_limit",
    "memory_within",
    "oom_kills",
]

# Where /proc and /sys are.
_ROOT = Path("/")


def logical_cores() -> int:
    """Logical cores that this process may use: two for each physical one with SMT.

    No more than a container's share of the time: threads beyond it are stopped
    again and again, and the others wait for them.
    """
    return _within_share(len(allowed_cores()))


def compute_threads() -> int:
    """Threads that can compute at full speed: physical cores that this process may use."""
    return _within_share(physical_cores(allowed_cores(), _ROOT))


def core_seconds_of_others() -> float:
    """Core seconds that other processes have had of the cores that this process may use."""
    times = psutil.cpu_times(percpu=True)
    # What a hypervisor takes for itself is not counted: fewer threads would not help.
    busy = sum(
        core.user + core.system + core.nice + getattr(core, "irq", 0) + getattr(core, "softirq", 0)
        for core in (times[number] for number in allowed_cores() if number < len(times))
    )
    return busy - time.process_time()


def core_seconds_of_strangers() -> float:
    """Those of other processes but the one that started this one.

    While a runner loads its model, the server that started it starts too, which soon ends.
    """
    server = psutil.Process().parent()
    try:
        times = server.cpu_times() if server else None
    except psutil.Error:
        times = None
    return core_seconds_of_others() - (times.user + times.system if times else 0.0)


def available_memory() -> int:
    """Bytes that can be taken without swapping, and within every control group's limit."""
    available = psutil.virtual_memory().available
    limit = ControlGroups(_ROOT).memory()
    return available if limit is None else min(available, limit.left)


def memory_limit() -> int | None:
    """Return the memory limit of control groups in bytes; None without a limit."""
    limit = ControlGroups(_ROOT).memory()
    return None if limit is None else limit.bytes


def memory_within(limit: int | None) -> int:
    """Bytes that can be taken of this machine's memory, and no more than `limit`."""
    available = available_memory()
    return available if limit is None else min(available, limit)


def oom_kills() -> int:
    """Return the number of processes killed by the system for lack of memory; 0 outside Linux.

    A container's limit counts too.
    """
    return fields(_ROOT / "proc/vmstat").get("oom_kill", 0)


def _within_share(cores: int) -> int:
    """Cores, but no more than the whole ones of the control groups' share; at least 1."""
    share = ControlGroups(_ROOT).cores()
    return max(cores if share is None else min(cores, int(share)), 1)
