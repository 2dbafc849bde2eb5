"""What others take of the cores while something is measured, by a scripted clock."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from llm_serving_engine.backends.llama_cpp.speeds import timed_calls
from llm_serving_engine.backends.other_processes import (
    CROWDED_CORES,
    CROWDED_SECONDS,
    DISTURBED_CORES,
    DISTURBED_SECONDS,
    SHARE_MIN,
    OtherProcesses,
)


class Machine:
    """Two cores, a clock, and what others have had of the cores."""

    def __init__(self, cores_taken: float = 0.0) -> None:
        self.now, self.had = 100.0, 50.0
        self._cores_taken = cores_taken

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        self.had += seconds * self._cores_taken

    def watch(self, cores: int = 2) -> OtherProcesses:
        return OtherProcesses(lambda: self.now, lambda: self.had, cores)


@pytest.mark.parametrize("seconds", [0.1, 1.0, 3.0])
@pytest.mark.parametrize(
    ("judge", "cores", "ticks"),
    [
        (OtherProcesses.disturbed, DISTURBED_CORES, DISTURBED_SECONDS),
        (OtherProcesses.crowded, CROWDED_CORES, CROWDED_SECONDS),
    ],
)
def test_the_edges(
    judge: Callable[[OtherProcesses], bool], cores: float, ticks: float, seconds: float
) -> None:
    machine = Machine()
    others = machine.watch()
    machine.now += seconds
    machine.had += cores * seconds + ticks - 0.001
    assert not judge(others)
    machine.had += 0.002
    assert judge(others)


@pytest.mark.parametrize(
    ("taken", "cores", "threads", "left"),
    [
        (0.0, 2, 2, 1.0),
        (1.0, 2, 2, 0.5),
        (1.0, 2, 1, 1.0),
        (2.0, 2, 2, SHARE_MIN),
        (4.0, 16, 8, 1.0),
        (12.0, 16, 8, 0.5),
    ],
)
def test_the_share_that_others_left(taken: float, cores: int, threads: int, left: float) -> None:
    machine = Machine(taken)
    others = machine.watch(cores)
    machine.pass_by(1.0)
    assert others.share_left(threads) == pytest.approx(left)


@pytest.mark.parametrize(("taken", "share"), [(0.0, 1.0), (0.3, 1.0), (1.0, 0.5)])
def test_first_costs_are_those_of_free_cores(taken: float, share: float) -> None:
    machine = Machine(taken)
    model: Any = SimpleNamespace(
        settings=SimpleNamespace(prefill_chunk=64, sequences=4, threads=2),
        context_per_sequence=2048,
        decode=lambda parts: machine.pass_by(0.2),
        clear=lambda slot: None,
    )
    others = machine.watch()
    speeds = timed_calls(model, lambda: None, others)
    assert [seconds for _, seconds in speeds] == pytest.approx([0.2 * share] * 3)
