from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.prefill import Cuts, PrefillBudget, chunk_length, plan_prefill
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition

COST = CostModel()


def prefilling(
    slot: int, prompt: int, computed: int = 0, priority: Priority = Priority.NORMAL
) -> Sequence:
    request = Request(str(slot), tuple(range(prompt)), max_tokens=1, priority=priority)
    sequence = Sequence(request, [Transition(State.WAITING, 0.0)])
    sequence.slot, sequence.computed = slot, computed
    return sequence


@given(st.integers(0, 500), st.integers(1, 500), st.integers(-5, 600), st.integers(1, 64))
def test_a_chunk_ends_at_a_multiple_or_at_the_end(
    start: int, rest: int, budget: int, unit: int
) -> None:
    length = chunk_length(start, start + rest, budget, unit)
    assert 0 <= length <= min(rest, max(budget, 0))
    assert length in (0, rest) or (start + length) % unit == 0
    assert length or budget < unit


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 300)), max_size=8),
    st.integers(1, 600),
    st.sampled_from([1, 16, 64]),
)
def test_the_budget_is_shared_in_order(
    lengths: list[tuple[int, int]], budget: int, unit: int
) -> None:
    sequences = [
        prefilling(slot, prompt, min(done, prompt - 1) // unit * unit)
        for slot, (prompt, done) in enumerate(lengths)
    ]
    planned = list(plan_prefill(sequences, PrefillBudget(COST, 1e9, budget, Cuts.at(unit))))
    assert [sequence for sequence, _ in planned] == sequences[: len(planned)]
    assert sum(len(chunk.tokens) for _, chunk in planned) <= max(budget, unit)
    assert bool(planned) is bool(sequences)
    for sequence, chunk in planned:
        end = chunk.position + len(chunk.tokens)
        assert chunk.position == sequence.computed
        assert chunk.tokens == sequence.request.prompt[chunk.position : end]
        assert chunk.sample is (end == len(sequence.request.prompt))


def test_what_was_produced_before_is_computed_again() -> None:
    sequence = prefilling(0, prompt=3)
    sequence.output = [70, 71]
    [(_, chunk)] = plan_prefill([sequence], PrefillBudget(COST, 1e9, 10, Cuts.at(4)))
    assert chunk.tokens == (0, 1, 2, 70, 71)
    assert chunk.sample


@given(st.integers(1, 4000), st.floats(-0.5, 2.0), st.sampled_from([1, 16, 64]))
def test_the_time_is_kept_but_for_the_smallest_unit(prompt: int, seconds: float, unit: int) -> None:
    budget = PrefillBudget(COST, seconds, 9999, Cuts.at(unit))
    [(_, chunk)] = plan_prefill([prefilling(0, prompt)], budget)
    tokens = len(chunk.tokens)
    assert tokens <= unit or COST.prefill_seconds(tokens) <= seconds * 1.001


def test_a_first_token_does_not_wait_for_a_lower_class() -> None:
    low = prefilling(2, 100, priority=Priority.LOW)
    urgent = [prefilling(0, 20, priority=Priority.HIGH), prefilling(1, 20, priority=Priority.HIGH)]
    budget = PrefillBudget(COST, 1e9, 500, Cuts.at(1))
    assert [chunk.slot for _, chunk in plan_prefill([*urgent, low], budget)] == [0, 1]
    # While its prompt goes on, there is nothing to be early for.
    long = prefilling(0, 300, priority=Priority.HIGH)
    budget = PrefillBudget(COST, 1e9, 250, Cuts.at(100))
    planned = list(plan_prefill([long, low], budget))
    assert [(chunk.slot, len(chunk.tokens)) for _, chunk in planned] == [(0, 200)]


def first_chunk(computed: int, seconds: float, cuts: Cuts) -> int:
    """Tokens of a long prompt that a step computes."""
    [(_, chunk)] = plan_prefill(
        [prefilling(0, 4000, computed)], PrefillBudget(COST, seconds, 9999, cuts)
    )
    return len(chunk.tokens)


def test_half_a_unit_where_a_whole_one_is_too_long() -> None:
    cuts = Cuts.within(64, COST, target=0.01)
    chunks = [
        first_chunk(0, COST.prefill_seconds(round(units * 64)), cuts)
        for units in (0, 0.4, 0.6, 1.1, 1.9, 2.1)
    ]
    assert chunks == [32, 32, 32, 64, 64, 128]


def test_less_than_half_a_unit_where_what_is_before_makes_it_too_long() -> None:
    half = COST.prefill_seconds(32)
    deep = 3200
    assert COST.prefill_seconds(32, deep) > 3 * half
    # No longer than half a unit at the beginning, nor shorter than the target has room for.
    assert first_chunk(deep, 0.0, Cuts.within(64, COST, target=half / 2)) == 8
    assert first_chunk(deep, 0.0, Cuts.within(64, COST, target=4 * half)) == 24
    assert first_chunk(deep, 0.0, Cuts.within(64, COST, target=9 * half)) == 32
    assert first_chunk(deep, 3 * half, Cuts.within(64, COST, target=half / 2)) == 16


def test_whole_units_only_where_bits_are_kept() -> None:
    assert first_chunk(3200, 0.0, Cuts.at(64)) == 64
    assert first_chunk(3210, 0.0, Cuts.at(64)) == 54
