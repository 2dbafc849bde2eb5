"""Checks the machine: the processor, and the cores and memory available to a server."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator

import psutil

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.cpu import code_flags, cpu_name
from llm_serving_engine.server.doctor.finding import Finding, note, problem

SECTION = "machine"
WATCH_SECONDS = 0.5
# What others may take of all cores without a word about it.
BUSY_CORES = 0.5
MEMORY_LEAST = 500_000_000
# The instructions that matrix kernels are written with, the oldest first.
KERNEL_FEATURES = (
    "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16",
    "amx_tile", "amx_int8", "asimd", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip


def look_at_machine(pause: Callable[[float], None] = time.sleep) -> Iterator[Finding]:
    """Look at it.

    Args:
        pause: Waits for so many seconds while others are watched.
    """
    yield Finding(SECTION, "system", f"{platform.system()} {platform.machine()}")
    yield _processor()
    yield _cores(_busy(pause))
    yield _memory()


def _processor() -> Finding:
    flags = code_flags()
    features = " ".join(name for name in KERNEL_FEATURES if name in flags)
    value = f"{cpu_name()}: {features}" if features else cpu_name()
    if flags and platform.machine() == "x86_64" and "avx2" not in flags:
        return note(SECTION, "processor", value, "without AVX2, models are computed slowly")
    return Finding(SECTION, "processor", value)


def _busy(pause: Callable[[float], None]) -> float:
    """Return how many of this process's cores other processes use."""
    began, had = time.monotonic(), machine.core_seconds_of_others()
    pause(WATCH_SECONDS)
    elapsed = max(time.monotonic() - began, 1e-3)
    return max(machine.core_seconds_of_others() - had, 0.0) / elapsed


def _cores(busy: float) -> Finding:
    threads, logical = machine.compute_threads(), machine.logical_cores()
    whole = psutil.cpu_count() or logical
    value = f"{threads} to compute with"
    if logical != threads:
        value += f", {logical} logical"
    if logical < whole:
        value += f" of the machine's {whole}"
    value += f"; others take {busy:.1f}"
    if busy > BUSY_CORES:
        advice = "other processes make each step longer: end them, or lower threads"
        return note(SECTION, "cores", value, advice)
    return Finding(SECTION, "cores", value)


def _memory() -> Finding:
    available, whole = machine.available_memory(), psutil.virtual_memory().total
    limit = machine.memory_limit()
    value = f"{gigabytes(available)} available of {gigabytes(whole)}"
    if limit is not None and limit < whole:
        value += f"; a control group grants {gigabytes(limit)}"
    if available < MEMORY_LEAST:
        return problem(SECTION, "memory", value, "free some memory, or raise the group's limit")
    return Finding(SECTION, "memory", value)


def gigabytes(count: float) -> str:
    """Bytes for people, such as "1.2 GB"."""
    return f"{count / 1e9:,.1f} GB"
