"""How much of which prompt a step computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import PrefillChunk


class Cuts(NamedTuple):
    """Where prompts are cut.

    Attributes:
        unit: Chunks end at multiples of this,
        half: or where a whole one is too long, at multiples of this,
        part: or where what is before it makes even that too long, of this.
        seconds: How long it then may be.
    """

    unit: int
    half: int
    part: int
    seconds: float = 0.0

    @classmethod
    def at(cls, unit: int) -> Cuts:
        """At whole units only: so the bits stay the same."""
        return cls(unit, unit, unit)

    @classmethod
    def within(cls, unit: int, cost: CostModel, target: float) -> Cuts:
        """At parts of units where whole ones are too long for a step's target.

        Halves are not too long at a prompt's beginning, whatever they take: smaller
        ones would lose too much of the kernels' speed. Far into a long prompt, what
        is before a token takes most of its time, and less is lost.
        """
        half, part = max(unit // 2, 1), max(unit // 8, 1)
        return cls(unit, half, part, max(target, cost.prefill_seconds(half)))

    def least(self, start: int, cost: CostModel) -> int:
        """Tokens of the smallest chunk from a position on."""
        tokens = cost.prefill_tokens(self.seconds, start) // self.part * self.part
        return max(min(tokens, self.half), self.part)


class PrefillBudget:
    """The time and the tokens that a step has for prompts."""

    def __init__(self, cost: CostModel, seconds: float, tokens: int, cuts: Cuts) -> None:
        """Begin a step.

        Args:
            cost: How long tokens take.
            seconds: What the step has left of its target; may be below 0.
            tokens: What it may compute at most.
            cuts: Where chunks may end.
        """
        self._cost = cost
        self._seconds = seconds
        self._tokens = tokens
        self._cuts = cuts
        self._untouched = True

    def take(self, sequence: Sequence) -> int:
        """Tokens of `sequence` to compute in this step; 0 where nothing is left.

        The first sequence always gets the smallest chunk: prompts go on however
        tight the target is.
        """
        start, end = sequence.computed, sequence.known_tokens
        budget = min(self._cost.prefill_tokens(self._seconds, start), self._tokens)
        length = chunk_length(start, end, budget, self._cuts.unit) or chunk_length(
            start, end, budget, self._cuts.half
        )
        if not length and self._untouched:
            least = max(budget, self._cuts.least(start, self._cost))
            length = chunk_length(start, end, least, self._cuts.part)
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


def chunk_length(start: int, end: int, budget: int, unit: int) -> int:
    """Tokens to compute of those from `start` to `end`; 0 where the budget has no room."""
    if end - start <= budget:
        return end - start
    return max((start + budget) // unit * unit - start, 0)


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
