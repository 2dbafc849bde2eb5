"""Collects the facts of a run: command, date, versions, and machine."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath

PACKAGES = ("llm-serving-engine", "grpcio", "protobuf", "aiohttp")
CPU_INFO = Path("/proc/cpuinfo")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True, slots=True)
class Machine:
    """The load generator's machine; also the servers' if their addresses are loopback.

    Attributes:
        cpu: The model's name.
        cores: Logical ones that this process may use.
        memory_bytes: Of the machine; None where it cannot be told.
        system: The operating system.
        python: Its version.
        governor: Of the CPU's clock; empty where it cannot be read.
        load_average: Of the minute before the run; None where there is none.
    """

    cpu: str
    cores: int
    memory_bytes: int | None
    system: str
    python: str
    governor: str
    load_average: float | None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """One run of the load generator.

    Attributes:
        date: When it began, in UTC.
        command: The command line.
        versions: Of the load generator and what it sends with.
        machine: Where it runs.
        nonce: The words in front of every prompt; empty where there were none.
    """

    date: str
    command: str
    versions: dict[str, str]
    machine: Machine
    nonce: str = ""

    @property
    def line(self) -> str:
        """All of it that fits under a table."""
        machine = self.machine
        load = machine.load_average
        memory = f", {machine.memory_bytes / 2**30:.0f} GiB" if machine.memory_bytes else ""
        return (
            f"{self.date}, {machine.cpu}, {machine.cores} cores{memory}, {machine.system}, "
            f"Python {machine.python}" + ("" if load is None else f", load {load:.1f} before")
        )


def run_facts(arguments: Sequence[str], nonce: str) -> RunFacts:
    """Of a run that begins now, by a command line of these arguments."""
    name, *others = arguments
    return RunFacts(
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        command=shlex.join([PurePath(name).name, *others]),
        versions={name: found for name in PACKAGES if (found := _version(name))},
        machine=machine(),
        nonce=nonce,
    )


def machine() -> Machine:
    """That of this process."""
    return Machine(
        cpu=_cpu(),
        cores=_cores(),
        memory_bytes=_memory(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        governor=_text(GOVERNOR).strip(),
        load_average=_load_average(),
    )


def _cpu() -> str:
    for line in _text(CPU_INFO).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        with contextlib.suppress(OSError):
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            return found.stdout.strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int | None:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _load_average() -> float | None:
    with contextlib.suppress(OSError, AttributeError):
        return os.getloadavg()[0]
    return None


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


def _version(package: str) -> str:
    with contextlib.suppress(PackageNotFoundError):
        return version(package)
    return ""
