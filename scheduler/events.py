"""What a scheduler says of the requests, in the order in which it happened."""

from __future__ import annotations

from typing import NamedTuple

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
