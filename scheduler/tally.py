"""What a scheduler has done so far, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from llm_serving_engine.scheduler.lifecycle import State


@dataclass(slots=True)
class Tally:
    """What the scheduler has done since it was made.

    Attributes:
        outcomes: Requests that ended, by end state.
        preemptions: Slots that were taken for a higher class.
        saves: Caches of those that were saved, not thrown away.
        moves: Sequences that were moved to make rows dense.
        prefix_hits: Requests that found a part of their prompt in the cache.
        prefix_tokens: Those parts, in tokens.
    """

    outcomes: Counter[State] = field(default_factory=Counter)
    preemptions: int = 0
    saves: int = 0
    moves: int = 0
    prefix_hits: int = 0
    prefix_tokens: int = 0
