"""What is chosen, given what was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_serving_engine.backends.tuning import decision
from llm_serving_engine.backends.tuning.contender import (
    DECODE_STEPS_MAX,
    DECODE_STEPS_MIN,
    Effort,
)
from llm_serving_engine.backends.tuning.decision import (
    ROUNDS_MIN,
    Trial,
    fastest,
    settled,
    step_target_seconds,
    wins,
)
from llm_serving_engine.backends.tuning.reading import CHAT, MIXES, Reading, median

MARGIN = 0.03
READING = Reading(0.002, 0.1, 16)

ratios = st.lists(st.floats(0.2, 5), min_size=1, max_size=9).map(tuple)
seconds = st.floats(1e-6, 10)


@st.composite
def tables(draw: st.DrawFn) -> list[Trial]:
    values = draw(st.lists(st.integers(1, 64), unique=True, max_size=5))
    return [Trial(value, draw(ratios), READING) for value in values]


@pytest.mark.parametrize(
    ("measured", "won"),
    [
        ((1.1,) * 5, True),
        ((1.02,) * 5, False),  # faster, and not by the margin
        ((1.2, 0.9, 1.2, 1.2, 1.2), False),  # five rounds must agree
        ((1.2, 0.9, *[1.2] * 6), True),  # one of eight may stray
        ((1.2, 0.9, 0.9, *[1.2] * 6), False),
        ((1.1, 1.1, 1.1), False),  # may be chance
        ((1.5, 1.3, 1.9), True),  # cannot be
        ((1.9, 1.9), False),  # too few
        ((), False),
    ],
)
def test_a_value_wins_by_a_margin_in_all_but_stray_rounds(
    measured: tuple[float, ...], won: bool
) -> None:
    assert wins(measured, MARGIN) is won


@given(ratios, st.randoms())
def test_the_order_of_rounds_is_of_no_importance(measured: tuple[float, ...], random) -> None:
    shuffled = list(measured)
    random.shuffle(shuffled)
    assert wins(shuffled, MARGIN) is wins(measured, MARGIN)


@given(ratios)
def test_a_value_and_its_opposite_never_both_win(measured: tuple[float, ...]) -> None:
    opposite = [1 / ratio for ratio in measured]
    assert not (wins(measured, MARGIN) and wins(opposite, MARGIN))


@given(ratios, st.floats(1, 3))
def test_what_wins_wins_when_it_is_faster_still(measured: tuple[float, ...], by: float) -> None:
    if wins(measured, MARGIN):
        assert wins([ratio * by for ratio in measured], MARGIN)


@given(ratios)
def test_what_is_settled_stays_so_with_more_of_the_same(measured: tuple[float, ...]) -> None:
    if settled(measured, MARGIN):
        assert len(measured) >= ROUNDS_MIN
        assert wins(measured * 3, MARGIN) is wins(measured, MARGIN)


@pytest.mark.parametrize(
    ("measured", "is_settled"),
    [
        ((1.5, 1.6, 1.4), True),
        ((1.1, 1.2, 1.1), False),  # not won with so few
        ((1.1,) * 5, True),
        ((1.1, 1.1, 1.04, 1.1, 1.1), False),
        ((0.5, 0.6, 0.4), True),
        ((0.9, 0.95, 0.96), True),
        ((1.5, 1.6), False),
        ((0.5, 1.0, 0.5), False),
    ],
)
def test_rounds_end_where_all_are_well_to_one_side(
    measured: tuple[float, ...], is_settled: bool
) -> None:
    assert settled(measured, MARGIN) is is_settled


@given(tables())
def test_the_default_stays_unless_another_wins(trials: list[Trial]) -> None:
    winner = fastest(trials, MARGIN)
    winners = [trial for trial in trials if wins(trial.ratios, MARGIN)]
    if winner is None:
        assert winners == []
    else:
        assert winner in winners
        assert winner.gain == max(trial.gain for trial in winners)
        assert winner.gain >= 1 + MARGIN


@given(tables(), st.randoms())
def test_the_order_of_trials_does_not_change_the_gain(trials: list[Trial], random) -> None:
    shuffled = list(trials)
    random.shuffle(shuffled)
    first, second = fastest(trials, MARGIN), fastest(shuffled, MARGIN)
    assert (first and first.gain) == (second and second.gain)


def test_the_step_target_is_a_row_for_all_and_a_chunk() -> None:
    # 100 ms of rows, and 64 tokens of 2 ms.
    assert step_target_seconds(READING, 64) == 0.23
    assert step_target_seconds(READING, 128) == 0.36
    assert step_target_seconds(READING, 512) == decision.STEP_TARGET_MAX_SECONDS
    assert step_target_seconds(Reading(1e-6, 1e-3, 16), 64) == decision.STEP_TARGET_MIN_SECONDS


@given(seconds, seconds, st.integers(1, 512))
def test_the_step_target_has_room_for_the_step_within_its_bounds(
    prefill: float, decode: float, chunk: int
) -> None:
    target = step_target_seconds(Reading(prefill, decode, 16), chunk)
    assert decision.STEP_TARGET_MIN_SECONDS <= target <= decision.STEP_TARGET_MAX_SECONDS
    fits = target >= decode + chunk * prefill - 1e-9
    assert fits or target == decision.STEP_TARGET_MAX_SECONDS


def test_the_tokens_per_second_of_a_reading() -> None:
    # 16 prompts of 256 tokens take 8.192 s, 128 steps 12.8 s.
    assert READING.tokens_per_second == pytest.approx(16 * 128 / (8.192 + 12.8))


@given(seconds, seconds, st.integers(1, 256), st.floats(1.01, 10))
def test_whatever_is_faster_has_more_tokens_per_second(
    prefill: float, decode: float, rows: int, factor: float
) -> None:
    reading = Reading(prefill, decode, rows)
    assert Reading(prefill / factor, decode, rows).tokens_per_second > reading.tokens_per_second
    assert Reading(prefill, decode / factor, rows).tokens_per_second > reading.tokens_per_second
    both = Reading(prefill / factor, decode / factor, rows)
    assert both.tokens_per_second == pytest.approx(factor * reading.tokens_per_second)


def test_the_mix_decides_between_fast_prompts_and_fast_streams() -> None:
    prompts, streams = Reading(0.001, 0.2, 16), Reading(0.002, 0.1, 16)

    def faster(mix: str) -> Reading:
        one, other = (reading._replace(mix=MIXES[mix]) for reading in (prompts, streams))
        return prompts if one.tokens_per_second > other.tokens_per_second else streams

    assert faster("documents") == prompts
    assert faster("writing") == faster(CHAT) == streams


def test_the_middle_of_readings_is_that_of_each_number() -> None:
    readings = [Reading(0.3, 1.0, 4), Reading(0.1, 3.0, 4), Reading(0.2, 2.0, 4)]
    assert median(readings) == Reading(0.2, 2.0, 4)


@given(st.floats(0.01, 10), seconds, seconds)
def test_an_effort_takes_about_as_long_as_it_may(
    length: float, prefill: float, decode: float
) -> None:
    effort = Effort.within(length, Reading(prefill, decode, 4))
    assert 32 <= effort.prompt_tokens <= MIXES[CHAT].prompt_tokens
    assert DECODE_STEPS_MIN <= effort.decode_steps <= DECODE_STEPS_MAX
    assert effort.prompt_tokens == 32 or effort.prompt_tokens * prefill <= length / 2 + 1e-9
    at_least = effort.decode_steps == DECODE_STEPS_MIN
    assert at_least or effort.decode_steps * decode <= length / 2 + 1e-9
