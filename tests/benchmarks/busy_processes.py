"""Processes that compute beside a measurement."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# They end by themselves, even if the measurement was killed.
SECONDS_MAX = 900
# Computes for a share of each fifth of a second.
WORK = """
import sys, time
share, end = float(sys.argv[1]), time.perf_counter() + float(sys.argv[2])
while (began := time.perf_counter()) < end:
    while time.perf_counter() - began < share / 5: pass
    time.sleep((1 - share) / 5)
"""


@contextmanager
def busy(count: int, share: float = 1.0) -> Iterator[None]:
    """Start processes that each want a share of a core, and end them afterwards."""
    command = [sys.executable, "-c", WORK, str(share), str(SECONDS_MAX)]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
