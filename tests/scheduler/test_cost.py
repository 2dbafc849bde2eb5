from __future__ import annotations

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from llm_serving_engine.scheduler.cost import PRIOR, CostModel, Shape, Speed, count_runs
from llm_serving_engine.scheduler.step import (
    CopyPrefix,
    DecodeRow,
    PrefillChunk,
    Step,
)


def random_shape(dice: random.Random) -> Shape:
    rows = dice.randint(0, 16)
    prefill = dice.choice([0, 0, 64, 128, 512]) if rows else dice.choice([64, 512])
    return Shape(
        rows=rows,
        runs=dice.randint(1, 1 + rows // 3) if rows else 0,
        row_context=rows * dice.uniform(0.01, 2.0),
        prefill=prefill,
        prefill_context=prefill * dice.uniform(0, 2.0),
        copies=dice.choice([0, 0, 0, 1, 3]),
    )


@pytest.mark.parametrize("seed", range(40))
def test_steps_are_predicted_well_after_a_hundred(seed: int) -> None:
    """Whatever the machine: each cost is off by up to three times from a guess that is off too."""
    dice = random.Random(seed)
    slower = dice.choice([0.2, 1.0, 5.0, 30.0])
    truth = [cost * slower * dice.uniform(0.3, 3.0) for cost in PRIOR]
    model = CostModel(Speed(truth[4] * dice.uniform(0.7, 1.4), 0.01 * slower))

    def seconds(shape: Shape) -> float:
        return sum(cost * part for cost, part in zip(truth, shape, strict=True))

    for _ in range(100):
        shape = random_shape(dice)
        model.learn(shape, seconds(shape) * dice.uniform(0.9, 1.1))
    errors = []
    for _ in range(50):
        shape = random_shape(dice)
        errors.append(abs(model.predict(shape) / seconds(shape) - 1))
    errors.sort()
    assert errors[len(errors) // 2] < 0.10
    assert errors[int(len(errors) * 0.9)] < 0.4
    assert min(model.costs) >= 0


def test_it_follows_a_machine_that_becomes_slower() -> None:
    dice = random.Random(1)
    model = CostModel()
    for slower in (1.0, 2.0):
        for _ in range(300):
            shape = random_shape(dice)
            model.learn(shape, slower * CostModel().predict(shape))
        shape = Shape(rows=8, runs=1, row_context=4)
        assert model.predict(shape) == pytest.approx(slower * CostModel().predict(shape), rel=0.15)


def test_one_step_that_was_held_up_says_little() -> None:
    model, shape = CostModel(), Shape(rows=8, runs=1, row_context=4)
    for _ in range(200):
        model.learn(shape, 0.05)
    model.learn(shape, 5.0)
    assert model.predict(shape) < 0.07


def test_what_was_not_measured_teaches_nothing() -> None:
    model = CostModel()
    model.learn(Shape(rows=1, runs=1), 0.0)
    assert model.costs == list(PRIOR)


@given(st.integers(0, 4000), st.floats(0, 10))
def test_tokens_and_seconds_are_each_others_inverse(position: int, seconds: float) -> None:
    model = CostModel()
    tokens = model.prefill_tokens(seconds, position)
    assert model.prefill_seconds(tokens, position) <= seconds + 1e-6
    assert model.prefill_seconds(tokens + 1, position) > seconds
    assert model.prefill_tokens(model.prefill_seconds(tokens, position), position) == tokens


def test_what_the_runner_measured_is_where_it_begins() -> None:
    model = CostModel(Speed(prefill_token=0.1, decode_step=0.5))
    assert model.prefill_seconds(100) == pytest.approx(10.0, rel=0.25)
    assert model.decode_seconds(1) == pytest.approx(0.5, rel=0.5)


def test_the_shape_of_a_step() -> None:
    step = Step(
        1,
        operations=(CopyPrefix(0, 1, 500), CopyPrefix(0, 2, 100)),
        prefills=(PrefillChunk(4, 100, (1,) * 64, False),),
        decodes=(DecodeRow(0, 200, 1), DecodeRow(1, 300, 1), DecodeRow(3, 500, 1)),
    )
    shape = Shape.of(step, saved_tokens=250)
    assert shape == Shape(1, 3, 2, 1.0, 64, 64 * 0.132, 2, 0.25)


@pytest.mark.parametrize(
    ("slots", "runs"), [([], 0), ([3], 1), ([0, 1, 2], 1), ([0, 2], 2), ([0, 1, 5, 6, 9], 3)]
)
def test_runs(slots: list[int], runs: int) -> None:
    assert count_runs(slots) == runs
