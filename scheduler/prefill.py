"""How much of which prompt a step computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import PrefillChunk


class PrefillBudget:
    """The time and the tokens that a step has for prompts."""

    def __init__(
        self, cost: CostModel, seconds: float, tokens: int, unit: int, least: int | None = None
    ) -> None:
        """Begin a step.

        Args:
            cost: How long tokens take.
            seconds: What the step has left of its target; may be below 0.
            tokens: What it may compute at most.
            unit: Chunks end at multiples of this.
            least: A part of the unit at which they may end where a whole one is
                too long; None for never.
        """
        self._cost = cost
        self._seconds = seconds
        self._tokens = tokens
        self._unit = unit
        self._least = least or unit
        self._untouched = True

    def take(self, sequence: Sequence) -> int:
        """Tokens of `sequence` to compute in this step; 0 where nothing is left.

        The first sequence always gets its chunk, to the next multiple of the
        unit or of its part: prompts go on however tight the target is.
        """
        start, end = sequence.computed, sequence.known_tokens
        budget = min(self._cost.prefill_tokens(self._seconds, start), self._tokens)
        length = chunk_length(start, end, budget, self._unit) or chunk_length(
            start, end, budget, self._least, must_progress=self._untouched
        )
        if length:
            self._untouched = False
            self._tokens -= length
            self._seconds -= self._cost.prefill_seconds(length, start)
        return length


def plan_prefill(
    sequences: Iterable[Sequence], budget: PrefillBudget
) -> Iterator[tuple[Sequence, PrefillChunk]]:
    """Share a budget among the sequences, in their order, until it is spent.

    A step that brings somebody's first token is not made longer for the sake of
    a lower class.
    """
    class_min = 0
    for sequence in sequences:
        if sequence.request.priority < class_min:
            return
        length = budget.take(sequence)
        if length == 0:
            return
        chunk = _chunk(sequence, length)
        if chunk.sample:
            class_min = max(class_min, sequence.request.priority)
        yield sequence, chunk


def chunk_length(
    start: int, end: int, budget: int, unit: int, *, must_progress: bool = False
) -> int:
    """Tokens to compute of those from `start` to `end`; 0 where the budget has no room."""
    if end - start <= budget:
        return end - start
    aligned = (start + max(budget, 0)) // unit * unit - start
    if aligned > 0:
        return aligned
    return min(end, (start // unit + 1) * unit) - start if must_progress else 0


def _chunk(sequence: Sequence, length: int) -> PrefillChunk:
    assert sequence.slot is not None
    stop = sequence.computed + length
    return PrefillChunk(
        slot=sequence.slot,
        position=sequence.computed,
        tokens=sequence.tokens(sequence.computed, stop),
        sample=stop == sequence.known_tokens,
        replayed=min(max(stop - len(sequence.request.prompt), 0), length),
    )
