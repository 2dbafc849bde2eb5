"""First come, first served, whatever the class."""

from __future__ import annotations

from collections.abc import Hashable

from llm_serving_engine.scheduler.policy import Key, Policy
from llm_serving_engine.scheduler.sequence import Sequence


class FirstComePolicy(Policy):
    """Serves in the order of arrival."""

    strict_classes = False

    def key(self, sequence: Sequence, now: float) -> Key:
        """Its arrival."""
        return (sequence.arrived_at,)

    def line(self, sequence: Sequence) -> Hashable:
        """One for all."""
        return ()
