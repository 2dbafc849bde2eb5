from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from llm_serving_engine.scheduler.cost import (
    CHUNKS,
    ROWS,
    TARGET_MAX,
    TARGET_MIN,
    TRANSFERS,
    CostModel,
    step_target,
)
from llm_serving_engine.scheduler.slots import count_groups
from llm_serving_engine.scheduler.step import (
    Capabilities,
    Close,
    Copy,
    Drop,
    Operation,
    Restore,
    Run,
    Save,
    Shape,
    Step,
    shape_of,
)
from llm_serving_engine.server.simulator.costs import DEFAULT_COSTS, Costs


def random_shape(dice: random.Random) -> Shape:
    if dice.random() < 0.5:
        rows = dice.randint(1, 16)
        return Shape(dice.randint(1, 1 + rows // 3), rows, rows, rows * dice.uniform(0.01, 2.0))
    tokens = dice.choice([32, 64, 128, 256])
    return Shape(1, 1, tokens, tokens * dice.uniform(0, 2.0))


def random_machine(dice: random.Random) -> CostModel:
    """Each cost is off by up to three times, on a machine of any speed."""
    slower = dice.choice([0.2, 1.0, 5.0, 30.0])
    weights = [cost * slower * dice.uniform(0.3, 3.0) for cost in DEFAULT_COSTS]
    return Costs._make(weights).model()


TIMED = [Shape(1, rows, rows, rows / 4) for rows in (1, 8)]
TIMED += [Shape(1, 1, tokens, tokens**2 / 2000) for tokens in (32, 64, 128)]


@pytest.mark.parametrize("seed", range(40))
def test_calls_are_predicted_well_after_a_hundred(seed: int) -> None:
    dice = random.Random(seed)
    machine = random_machine(dice)
    model = CostModel((shape, machine.predict(shape)) for shape in TIMED)
    for _ in range(100):
        shape = random_shape(dice)
        model.learn(shape, machine.predict(shape) * dice.uniform(0.9, 1.1))
    errors = []
    for _ in range(50):
        shape = random_shape(dice)
        errors.append(abs(model.predict(shape) / machine.predict(shape) - 1))
    errors.sort()
    assert errors[len(errors) // 2] < 0.10
    assert errors[int(len(errors) * 0.9)] < 0.25
    assert min(*model.rows.weights, *model.chunks.weights) >= 0


@pytest.mark.parametrize("seed", range(20))
def test_what_was_timed_at_load_is_predicted_at_once(seed: int) -> None:
    machine = random_machine(random.Random(seed))
    model = CostModel((shape, machine.predict(shape)) for shape in TIMED)
    for shape in TIMED:
        assert model.predict(shape) == pytest.approx(machine.predict(shape), rel=0.25)


def test_a_slow_spell_ends_when_it_ends() -> None:
    dice = random.Random(1)
    machine, model = CostModel(), CostModel()
    shape = Shape(1, 8, 8, 4)
    for slower in (1.0, 4.0, 1.0):
        for _ in range(200):
            one = random_shape(dice)
            model.learn(one, slower * machine.predict(one))
        assert model.predict(shape) == pytest.approx(slower * machine.predict(shape), rel=0.15)


def test_one_call_that_was_held_up_says_little() -> None:
    model, shape = CostModel(), Shape(1, 8, 8, 4)
    for _ in range(200):
        model.learn(shape, 0.05)
    model.learn(shape, 5.0)
    assert model.predict(shape) < 0.07


def test_what_was_not_measured_teaches_nothing() -> None:
    model = CostModel()
    model.learn(Shape(1, 1, 1, 0), 0.0)
    model.learn(Shape(0, 0, 0, 0), 1.0)
    assert (tuple(model.rows.weights), tuple(model.chunks.weights)) == (ROWS, CHUNKS)


def test_rows_and_chunks_are_learned_apart() -> None:
    model = CostModel()
    model.learn(Shape(1, 4, 4, 1), 1.0)
    assert tuple(model.chunks.weights) == CHUNKS
    assert tuple(model.rows.weights) != ROWS


@pytest.mark.parametrize("seed", range(10))
def test_operations_are_predicted_well_after_a_hundred(seed: int) -> None:
    dice = random.Random(seed)
    machine, model = random_machine(dice), CostModel()
    kinds: tuple[Callable[[int], Operation], ...] = (
        lambda tokens: Copy(0, 1, tokens),
        lambda tokens: Save(0, 1, tokens),
        lambda tokens: Restore(1, 1, tokens),
    )
    for _ in range(100):
        some = [dice.choice(kinds)(dice.randint(1, 2000)) for _ in range(dice.randint(1, 3))]
        model.learn_operations(some, machine.operations(some) * dice.uniform(0.9, 1.1))
    for kind in kinds:
        for tokens in (100, 1000):
            expected = machine.operations([kind(tokens)])
            assert model.operations([kind(tokens)]) == pytest.approx(expected, rel=0.25)
    assert model.copy_seconds(500) == model.operations([Copy(0, 1, 500)])
    assert min(model.transfers.weights) >= 0


def test_operations_that_move_no_tokens_and_those_not_measured_teach_nothing() -> None:
    model = CostModel()
    model.learn_operations([Drop(1), Close(1)], 1.0)
    model.learn_operations([Copy(0, 1, 5)], 0.0)
    assert tuple(model.transfers.weights) == TRANSFERS


def test_the_shape_of_a_step() -> None:
    chunk = Step(1, runs=(Run(1, 4, 100, (1,) * 64),))
    assert chunk.shape == Shape(1, 1, 64, 64 * (100 + 31.5) / 1000)
    assert (chunk.rows, chunk.prompt_tokens) == (False, 64)
    rows = Step(1, runs=tuple(Run(slot, slot, 200, (1,)) for slot in (0, 1, 3)))
    assert rows.shape == Shape(2, 3, 3, 0.6)
    assert (rows.rows, rows.prompt_tokens) == (True, 0)
    assert shape_of(()) == Shape(0, 0, 0, 0)


@pytest.mark.parametrize("chunk", [32, 64, 256, 512])
@pytest.mark.parametrize("speed", [0.01, 1.0, 10.0])
def test_the_step_target_is_between_its_limits(chunk: int, speed: float) -> None:
    cost = Costs._make(one * speed for one in DEFAULT_COSTS).model()
    target = step_target(cost, Capabilities(16, 2048, chunk))
    assert TARGET_MIN <= target <= TARGET_MAX


def test_the_step_target_has_room_for_rows_and_a_chunk() -> None:
    cost = Costs._make(2 * one for one in DEFAULT_COSTS).model()
    deep = Capabilities(16, 2048, chunk=128).context // 4
    # Beside these rows, a prompt in chunks of 32 is too slow.
    cost.rows.weights = [0.04, 0.01, 0.0]
    target = step_target(cost, Capabilities(16, 2048, chunk=128))
    assert target == pytest.approx(cost.rows_seconds(8) + cost.chunk_seconds(36, deep))
    cost.rows.weights = [0.001, 0.0, 0.0]
    target = step_target(cost, Capabilities(8, 2048, chunk=128))
    assert target == pytest.approx(0.001 + cost.chunk_seconds(32, deep))
    # Nothing is cut shorter than this.
    target = step_target(cost, Capabilities(8, 2048, chunk=128, chunk_min=40))
    assert target == pytest.approx(0.001 + cost.chunk_seconds(40, deep))
    # Where short chunks lose too much by themselves, it has room for a longer one.
    cost.chunks.weights = [0.2, 0.001, 0.0]
    target = step_target(cost, Capabilities(8, 2048, chunk=256))
    assert target == pytest.approx(cost.rows_seconds(4) + cost.chunk_seconds(131, deep))


def test_the_step_target_has_no_jumps() -> None:
    cost = Costs._make(2 * one for one in DEFAULT_COSTS).model()
    targets = []
    for rows_seconds in range(200):
        cost.rows.weights = [0.001 * rows_seconds, 0.0, 0.0]
        targets.append(step_target(cost, Capabilities(16, 2048, chunk=512)))
    assert max(b - a for a, b in itertools.pairwise(targets)) < 0.02
    assert targets[-1] == TARGET_MAX > targets[0]


@pytest.mark.parametrize(
    ("slots", "groups"), [([], 0), ([3], 1), ([0, 1, 2], 1), ([0, 2], 2), ([0, 1, 5, 6, 9], 3)]
)
def test_groups(slots: list[int], groups: int) -> None:
    assert count_groups(slots) == groups
