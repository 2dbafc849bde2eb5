"""The parts of a call of llama.cpp."""

from __future__ import annotations

from typing import NamedTuple

from llm_serving_engine.scheduler.step import Run


class Part(NamedTuple):
    """Consecutive tokens of one slot, in one call.

    Attributes:
        slot: The slot.
        start: The position of the first token.
        tokens: At least one.
        wanted: Whether logits after the last token are wanted.
        padding: How many filler tokens follow. Their results are discarded.
    """

    slot: int
    start: int
    tokens: tuple[int, ...]
    wanted: bool = True
    padding: int = 0

    @classmethod
    def of(cls, run: Run) -> Part:
        """A run, without padding."""
        return cls(run.slot, run.start, run.tokens, bool(run.output))

    @property
    def length(self) -> int:
        """Tokens in the call, padding included."""
        return len(self.tokens) + self.padding


FILLER = (0,)
"""The token of filler rows."""
