"""From measurements to choices. Nothing is measured here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from llm_serving_engine.backends.tuning.reading import Reading

Value = int | str

# Fewer rounds say nothing, and of so few only a gain that no noise explains.
ROUNDS_MIN = 3
CLEAR_GAIN = 0.25
# With so many in agreement, chance is no good explanation (1 in 32), nor with
# one of eight that strays: something else may have run on the machine just then.
ROUNDS_TO_WIN = 5
ROUNDS_PER_STRAY = 8

STEP_TARGET_MIN_SECONDS = 0.05
STEP_TARGET_MAX_SECONDS = 0.5
_STEP_TARGET_UNIT_SECONDS = 0.01


class Trial(NamedTuple):
    """One value, measured against the default in alternating rounds.

    Attributes:
        value: The value.
        ratios: For each round, its tokens per second over the default's.
        reading: The middle of its readings.
        batch_invariant: Whether a sequence's bits do not depend on the others with it.
    """

    value: Value
    ratios: tuple[float, ...]
    reading: Reading
    batch_invariant: bool = False

    @property
    def gain(self) -> float:
        """The middle of the ratios: above 1 where it is faster than the default."""
        return statistics.median(self.ratios)


def wins(ratios: Sequence[float], margin: float) -> bool:
    """Whether a value beats the default: by the margin, and in all but stray rounds.

    Args:
        ratios: For each round, its tokens per second over the default's.
        margin: By how much it must be faster, such as 0.03.
    """
    if len(ratios) < ROUNDS_TO_WIN:
        return len(ratios) >= ROUNDS_MIN and min(ratios) > 1 + CLEAR_GAIN
    against = sum(ratio <= 1 for ratio in ratios)
    return leads(ratios, margin) and against <= len(ratios) // ROUNDS_PER_STRAY


def leads(ratios: Sequence[float], margin: float) -> bool:
    """Whether a value is faster by the margin, going by the rounds so far."""
    return statistics.median(ratios) >= 1 + margin


def settled(ratios: Sequence[float], margin: float) -> bool:
    """Whether more rounds would hardly change what `wins` says: all are well to one side."""
    if len(ratios) < ROUNDS_MIN:
        return False
    won = wins(ratios, margin) and min(ratios) > 1 + 2 * margin
    return won or max(ratios) < 1 - margin


def fastest(trials: Sequence[Trial], margin: float) -> Trial | None:
    """The best of those that beat the default; None where it stays."""
    winners = [trial for trial in trials if wins(trial.ratios, margin)]
    return max(winners, key=lambda trial: trial.gain, default=None)


def step_target_seconds(reading: Reading, prefill_chunk: int) -> float:
    """The step target that suits a runner: a row for everybody, and one chunk of a prompt.

    That is the shortest step in which the streams that run and a prompt that
    came both get on; a longer one only makes the gaps in the streams longer.
    Rounded up to 0.01 s, and kept within 0.05 s, below which a step's fixed
    cost weighs too much, and 0.5 s, above which streams stutter.

    Args:
        reading: Of the runner.
        prefill_chunk: Its chunk, in tokens.
    """
    step = reading.decode_step_seconds + prefill_chunk * reading.prefill_token_seconds
    target = math.ceil(step / _STEP_TARGET_UNIT_SECONDS) * _STEP_TARGET_UNIT_SECONDS
    return round(min(max(target, STEP_TARGET_MIN_SECONDS), STEP_TARGET_MAX_SECONDS), 2)
