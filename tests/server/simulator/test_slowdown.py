"""How a machine's speed changed is kept in bounded room, and found again."""

from __future__ import annotations

import pytest

from llm_serving_engine.scheduler.step import Shape
from llm_serving_engine.server.simulator import slowdown
from llm_serving_engine.server.simulator.costs import Costs
from llm_serving_engine.server.simulator.slowdown import Slowdown, Spells

COSTS = Costs(0.003, 0.004, 0.001, 0.02, 0.005, 0.01, 0.0001, 0.00002, 0.0003)
ROWS, CHUNK = Shape(1, 4, 4, 1.0), Shape(1, 1, 64, 8.0)


def seconds(shape: Shape) -> float:
    return COSTS.model().predict(shape)


def test_each_second_has_its_ratio() -> None:
    spells = Spells()
    spells.add(0.5, ROWS, 3, 3 * seconds(ROWS))
    spells.add(1.2, CHUNK, 1, 2 * seconds(CHUNK))
    spells.add(1.9, ROWS, 1, 2 * seconds(ROWS))
    found = spells.slowdown(COSTS)
    assert found.seconds == 1.0
    assert found.ratios == pytest.approx((1.0, 2.0))
    assert [found.at(time) for time in (0.0, 0.99, 1.0, 1.99, 2.0)] == pytest.approx(
        [1.0, 1.0, 2.0, 2.0, 1.0]
    )


def test_an_idle_machine_is_as_slow_as_it_was_before() -> None:
    spells = Spells()
    spells.add(1.5, ROWS, 1, 3 * seconds(ROWS))
    spells.add(3.5, ROWS, 1, seconds(ROWS))
    assert spells.slowdown(COSTS).ratios == pytest.approx((1.0, 3.0, 3.0, 1.0))


def test_nothing_recorded_is_an_even_machine() -> None:
    assert Spells().slowdown(COSTS) == Slowdown(1.0, (1.0,))


def test_long_recordings_have_longer_spells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slowdown, "SPELLS_MAX", 4)
    spells = Spells()
    for second in range(9):
        spells.add(second + 0.5, ROWS, 1, (1 + second % 2) * seconds(ROWS))
    found = spells.slowdown(COSTS)
    # Nine seconds: eight of them in two spells of four, and the last alone.
    assert found.seconds == 4.0
    assert found.ratios == pytest.approx((1.5, 1.5, 1.0))


def test_an_hour_later_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slowdown, "SPELLS_MAX", 4)
    spells = Spells()
    spells.add(0.5, ROWS, 1, 2 * seconds(ROWS))
    spells.add(3600.0, ROWS, 1, seconds(ROWS))
    found = spells.slowdown(COSTS)
    assert len(found.ratios) <= 4
    assert found.at(0.0) == pytest.approx(2.0)
    assert found.at(3600.0) == pytest.approx(1.0)
