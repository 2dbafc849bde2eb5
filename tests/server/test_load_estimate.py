"""How long a load still takes: by its progress, by the load before, by the time that passed."""

from __future__ import annotations

import pytest

from llm_serving_engine.server.load_estimate import SECONDS_MAX, LoadEstimate


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def estimate(clock: Clock) -> LoadEstimate:
    return LoadEstimate(clock)


def test_by_the_fraction_that_is_read(estimate: LoadEstimate, clock: Clock) -> None:
    clock.now += 4.0
    estimate.progressed(0.25)
    assert estimate.remaining() == pytest.approx(12.0)
    clock.now += 2.0
    assert estimate.remaining() == pytest.approx(10.0)
    clock.now += 60.0
    assert estimate.remaining() == 0.0


def test_what_has_no_measure_takes_as_long_again(estimate: LoadEstimate, clock: Clock) -> None:
    clock.now += 3.0
    assert estimate.remaining() == pytest.approx(3.0)
    estimate.progressed(1.0)
    assert estimate.remaining() == 0.0
    clock.now += 2.0
    assert estimate.remaining() == pytest.approx(2.0)


def test_the_next_load_takes_as_long_as_the_one_before(
    estimate: LoadEstimate, clock: Clock
) -> None:
    clock.now += 8.0
    estimate.done()
    clock.now += 1000.0
    estimate.begin()
    clock.now += 3.0
    estimate.progressed(0.1)
    assert estimate.remaining() == pytest.approx(5.0)
    clock.now += 6.0
    assert estimate.remaining() == pytest.approx(21.0)


def test_it_is_bounded(estimate: LoadEstimate, clock: Clock) -> None:
    clock.now += 5.0
    estimate.progressed(0.001)
    assert estimate.remaining() == SECONDS_MAX
