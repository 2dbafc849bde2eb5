"""How many threads a machine, or a part of it, is good for."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from llm_serving_engine.backends import machine


@pytest.fixture
def quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with a container's share, on a machine of 8 cores, 16 with SMT."""
    path = tmp_path / "cpu.max"
    monkeypatch.setattr(machine, "_CGROUP_CPU", path)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(16), raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 16 if logical else 8)
    return path


def cores() -> tuple[int, int]:
    return machine.logical_cores(), machine.compute_threads()


def test_all_of_a_machine(quota: Path) -> None:
    assert cores() == (16, 8)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        ("max 100000\n", (16, 8)),
        ("3200000 100000\n", (16, 8)),
        ("1200000 100000\n", (12, 8)),
        ("400000 100000\n", (4, 4)),
        ("250000 100000\n", (2, 2)),
        ("50000 100000\n", (1, 1)),
        ("", (16, 8)),
    ],
)
def test_a_container_with_a_share_of_the_time(
    quota: Path, share: str, expected: tuple[int, int]
) -> None:
    quota.write_text(share)
    assert cores() == expected


def test_a_process_that_is_held_to_some_cores(quota: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(3), raising=False)
    assert cores() == (3, 3)


def test_where_the_system_does_not_tell(quota: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None)
    assert cores() == (16, 16)
