"""Fewer threads while others want the cores."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.threads import (
    FIT_SECONDS,
    LOAD_SECONDS_MIN,
    LOOK_SECONDS,
    REST_SECONDS,
    ThreadCount,
)

STEP = 0.02


class Beside:
    """A machine on which others have so many of the cores while threads compute."""

    def __init__(self, most: int, cores: int) -> None:
        self.now = 100.0
        self.had = 7.0
        self.looks = 0
        self.count = ThreadCount(most, cores, self._look, lambda: self.now)

    def _look(self) -> float:
        self.looks += 1
        return self.had

    def compute(self, others: float, seconds: float = 3 * FIT_SECONDS) -> int:
        """Compute step after step; how many threads do it in the end."""
        for _ in range(round(seconds / STEP)):
            before = self.count.now
            assert self.count.begin() == (self.count.now != before)
            self.pass_time(others, STEP)
            self.count.end()
        return self.count.now

    def pass_time(self, others: float, seconds: float) -> None:
        self.now += seconds
        self.had += others * seconds


def test_all_of_them_on_a_quiet_machine() -> None:
    beside = Beside(most=2, cores=2)
    assert beside.compute(others=0.0) == 2
    # A server's process and a client take their part.
    assert beside.compute(others=0.35) == 2


def test_fewer_beside_others_and_all_again() -> None:
    beside = Beside(most=2, cores=2)
    # What is left of a whole core that somebody wants: its threads have some of it.
    assert beside.compute(others=0.5) == 1
    assert beside.compute(others=1.0) == 1
    assert beside.compute(others=0.35) == 1
    assert beside.compute(others=0.2) == 2


def test_a_model_that_is_loaded_beside_others_computes_with_fewer() -> None:
    beside = Beside(most=2, cores=2)
    beside.pass_time(others=1.0, seconds=2 * LOAD_SECONDS_MIN)
    assert beside.count.after_loading() == 1
    quiet = Beside(most=2, cores=2)
    quiet.pass_time(others=0.2, seconds=1.0)
    assert quiet.count.after_loading() == 2
    # A few ticks are no measurement.
    short = Beside(most=2, cores=2)
    short.pass_time(others=1.0, seconds=LOAD_SECONDS_MIN / 2)
    assert short.count.after_loading() == 2


def test_never_none() -> None:
    beside = Beside(most=2, cores=2)
    assert beside.compute(others=2.0) == 1
    assert Beside(most=1, cores=1).compute(others=1.0) == 1


def test_cores_that_nobody_computes_on_are_for_others() -> None:
    beside = Beside(most=4, cores=8)
    assert beside.compute(others=4.0) == 4
    assert beside.compute(others=5.0) == 3
    assert beside.compute(others=7.0) == 1
    assert beside.compute(others=1.0) == 4


def test_what_others_did_during_a_rest_says_nothing() -> None:
    beside = Beside(most=2, cores=2)
    assert beside.compute(others=0.0) == 2
    beside.pass_time(others=2.0, seconds=60.0)
    assert beside.compute(others=0.0) == 2
    # The pause between two steps is no rest.
    for _ in range(100):
        beside.compute(others=1.0, seconds=STEP)
        beside.pass_time(others=1.0, seconds=REST_SECONDS / 2)
    assert beside.count.now == 1


def test_looks_are_rare() -> None:
    beside = Beside(most=2, cores=2)
    beside.compute(others=0.0, seconds=10 * LOOK_SECONDS)
    assert beside.looks <= 11


def test_requests_that_are_short_add_up() -> None:
    def request(others: float) -> int:
        beside.pass_time(others=2.0, seconds=60.0)
        return beside.compute(others, seconds=1.5 * LOOK_SECONDS)

    beside = Beside(most=2, cores=2)
    assert [request(others=1.0) for _ in range(12)][-1] == 1
    assert [request(others=0.0) for _ in range(18)][-1] == 2


def test_cores_need_not_be_yielded() -> None:
    beside = Beside(most=2, cores=2)
    beside.count = ThreadCount.of(2, BackendConfig(yield_cores=False))
    beside.count._others, beside.count._clock = beside._look, lambda: beside.now
    assert beside.compute(others=2.0) == 2


def test_what_others_have_had_of_the_cores() -> None:
    before = machine.core_seconds_of_others()
    work = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", work], check=True)
    # The system counts in ticks.
    assert machine.core_seconds_of_others() - before > 0.2


class Starter:
    """The server that started this process."""

    def __init__(self, times: Exception | SimpleNamespace) -> None:
        self._times = times

    def cpu_times(self) -> SimpleNamespace:
        if isinstance(self._times, Exception):
            raise self._times
        return self._times


@pytest.mark.parametrize(
    ("starter", "had"),
    [
        (Starter(SimpleNamespace(user=3.0, system=4.0)), 93.0),
        (Starter(psutil.NoSuchProcess(1)), 100.0),
        (None, 100.0),
    ],
)
def test_the_server_that_starts_beside_a_load_is_no_stranger(
    starter: Starter | None, had: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil.Process, "parent", lambda self: starter)
    monkeypatch.setattr(machine, "core_seconds_of_others", lambda: 100.0)
    assert machine.core_seconds_of_strangers() == had
