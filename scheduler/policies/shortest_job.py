"""Shortest job first: the least mean wait, and no mercy for long ones."""

from __future__ import annotations

from collections.abc import Hashable

from llm_serving_engine.scheduler.policy import Key, Policy
from llm_serving_engine.scheduler.sequence import Sequence


class ShortestJobPolicy(Policy):
    """Serves the request with the fewest tokens, prompt and max_tokens together."""

    strict_classes = False

    def key(self, sequence: Sequence, now: float) -> Key:
        """Its size, then its arrival."""
        return (sequence.request.tokens, sequence.arrived_at)

    def line(self, sequence: Sequence) -> Hashable:
        """Those of one size."""
        return sequence.request.tokens
