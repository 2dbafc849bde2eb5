"""What a scheduler says: what happened to requests, in order, and counts of what was done."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.sequence import Sequence, Transition
from llm_serving_engine.scheduler.step import Logprobs


class Moved(NamedTuple):
    """A sequence changed its state. It may have gone on since, in the same step."""

    sequence: Sequence
    transition: Transition


class Begun(NamedTuple):
    """The computing of a sequence's prompt has begun: what it found in the cache is settled."""

    sequence: Sequence


class Produced(NamedTuple):
    """A sequence has one more token."""

    sequence: Sequence
    token: int
    logprobs: Logprobs | None


SchedulerEvent = Moved | Begun | Produced


@dataclass(slots=True)
class Totals:
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
