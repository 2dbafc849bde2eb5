"""Logical and physical cores."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from fake_system import FakeSystem

from llm_serving_engine.backends.cores import allowed_cores, physical_cores


@pytest.mark.parametrize(
    ("siblings", "allowed", "cores"),
    [
        (["0", "1"], [0, 1], 2),
        (["0-1", "0-1", "2-3", "2-3"], [0, 1, 2, 3], 2),
        (["0,2", "1,3", "0,2", "1,3"], [0, 1, 2, 3], 2),
        (["0,2", "1,3", "0,2", "1,3"], [0, 2], 1),
        (["0,2", "1,3", "0,2", "1,3"], [0, 1], 2),
        (["0,2", "1,3", "0,2", "1,3"], [1, 2, 3], 2),
        (["0-3", "0-3", "0-3", "0-3", "4-7", "4-7", "4-7", "4-7"], list(range(8)), 2),
        (["0,8-9"] * 10, [0, 8, 9], 1),
    ],
)
def test_siblings_are_one_core(
    tmp_path: Path, siblings: list[str], allowed: list[int], cores: int
) -> None:
    FakeSystem(tmp_path).cores(siblings)
    assert physical_cores(allowed, tmp_path) == cores


@pytest.mark.parametrize("text", ["", "what", "0-x"])
def test_without_the_topology_the_systems_count_is_taken(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeSystem(tmp_path).cores([text] * 4)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 2)
    assert physical_cores(range(4), tmp_path) == 2
    assert physical_cores([3], tmp_path) == 1
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None)
    assert physical_cores(range(4), tmp_path) == 4


def test_cores_of_a_system_without_affinities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert allowed_cores() == [0, 1, 2]
