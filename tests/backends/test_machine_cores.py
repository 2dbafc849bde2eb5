"""How many threads a machine, or a part of it, is good for."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from fake_system import FakeSystem

from llm_serving_engine.backends import machine


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSystem:
    """A machine of 8 cores, 16 with SMT."""
    system = FakeSystem(tmp_path)
    system.cores([f"{number % 8},{number % 8 + 8}" for number in range(16)])
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(16), raising=False)
    return system


def cores() -> tuple[int, int]:
    return machine.logical_cores(), machine.compute_threads()


def test_all_of_a_machine(system: FakeSystem) -> None:
    assert cores() == (16, 8)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        ("max 100000", (16, 8)),
        ("3200000 100000", (16, 8)),
        ("1200000 100000", (12, 8)),
        ("400000 100000", (4, 4)),
        ("250000 100000", (2, 2)),
        ("50000 100000", (1, 1)),
        ("", (16, 8)),
    ],
)
def test_a_container_with_a_share_of_the_time(
    system: FakeSystem, share: str, expected: tuple[int, int]
) -> None:
    system.unified("/pod/box", {"pod/cpu.max": share})
    assert cores() == expected


@pytest.mark.parametrize(
    ("allowed", "expected"), [((0, 1, 2), (3, 3)), ((0, 8), (2, 1)), ((0, 1, 8, 9, 10), (5, 3))]
)
def test_a_process_that_is_held_to_some_cores(
    system: FakeSystem,
    allowed: tuple[int, ...],
    expected: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: allowed, raising=False)
    assert cores() == expected


def test_where_the_system_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None)
    assert cores() == (16, 16)


def test_memory_is_what_the_group_leaves(system: FakeSystem) -> None:
    system.unified("/pod/box", {"pod/memory.max": "1000", "pod/memory.current": "300"})
    assert machine.available_memory() == 700
    assert machine.memory_limit() == 1000
    assert machine.memory_within(600) == 600
    assert machine.memory_within(None) == 700
    system.unified("/pod/box", {"pod/memory.max": "max"})
    assert machine.available_memory() > 1000
    assert machine.memory_limit() is None


def test_kills_for_want_of_memory_are_counted(system: FakeSystem) -> None:
    assert machine.oom_kills() == 0
    system.write({"proc/vmstat": "nr_free_pages 7\noom_kill 3"})
    assert machine.oom_kills() == 3
