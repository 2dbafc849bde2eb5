"""The common interface of both kinds of model files: computes a slot's tokens."""

from __future__ import annotations

from typing import Protocol

from llm_serving_engine.backends.sampler import Logits


class ComputeError(Exception):
    """The library refused to compute some tokens; what it computed before stays."""


class SlotModel(Protocol):
    """Weights, and a cache for each slot.

    Attributes:
        threads: How many compute, from the next call on.
    """

    threads: int

    def compute(self, slot: int, position: int, tokens: tuple[int, ...]) -> Logits:
        """Compute a run of tokens; what the slot held from `position` on is overwritten.

        Args:
            slot: The slot.
            position: Of the first, within what the slot holds or right after it.
            tokens: At least one, at most `prefill_chunk`; the last is within the context.

        Returns:
            The logits after the last, of shape (vocabulary,); valid until the next call.

        Raises:
            ComputeError: The library refused.
        """

    def close(self) -> None:
        """Free everything."""
