"""How much of which prompt a step computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import PrefillChunk


def plan_prefill(
    sequences: Iterable[Sequence], budget: int, unit: int
) -> Iterator[tuple[Sequence, PrefillChunk]]:
    """Share `budget` tokens among the sequences, in their order.

    A chunk ends at a multiple of `unit` tokens from its sequence's start,
    unless it ends with the last known token. The first sequence always gets at
    least the chunk to the next such multiple, so that a budget smaller than
    the unit still makes progress.
    """
    first = True
    for sequence in sequences:
        length = chunk_length(sequence.computed, sequence.known_tokens, budget, unit, first)
        if length == 0:
            return
        first = False
        budget -= length
        yield sequence, _chunk(sequence, length)


def chunk_length(start: int, end: int, budget: int, unit: int, must_progress: bool) -> int:
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
    )
