"""Who goes first: what a scheduling policy decides, and nothing more.

To try one of your own, subclass `Policy`, and name it "module:Class" in the
configuration or for `llm-serving-engine simulate --policy`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Hashable

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.sequence import Sequence

Key = tuple[float, ...]
"""Compared item by item; the lowest goes first."""

POLICIES = {
    "fair": "llm_serving_engine.scheduler.policies.fair:FairPolicy",
    "first_come": "llm_serving_engine.scheduler.policies.first_come:FirstComePolicy",
    "shortest_job": "llm_serving_engine.scheduler.policies.shortest_job:ShortestJobPolicy",
}


class Policy(ABC):
    """Orders sequences. Only `key` must be written; the rest is told, in case it matters.

    One that raises is replaced by the default policy.

    Attributes:
        failure: Why the default policy decides in its place; else empty.
    """

    failure = ""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config

    @abstractmethod
    def key(self, sequence: Sequence, now: float) -> Key:
        """What waiting sequences are ordered by to get a slot."""

    def line(self, sequence: Sequence) -> Hashable:
        """Which line a sequence waits in: of a line, the one that arrived first is next.

        It must stay the same while the sequence waits, and so must the order of
        the keys in a line. Here each is a line of its own: right for every
        `key`, and asked for as many keys as there are waiting.
        """
        return sequence.request.id

    def prefill_key(self, sequence: Sequence, now: float) -> Key:
        """What sequences with a slot are ordered by to get their prompts computed."""
        return self.key(sequence, now)

    def preempts(self, waiting: Sequence, running: Sequence, now: float) -> bool:
        """Whether one that waits may take the slot of one that runs: if its class is higher."""
        return waiting.request.priority > running.request.priority

    def submitted(self, sequence: Sequence) -> None:  # noqa: B027
        """A sequence has come into the queue."""

    def served(self, sequence: Sequence, prompt_tokens: int, output_tokens: int) -> None:  # noqa: B027
        """A sequence has been given tokens: its prompt's when it first gets a slot."""

    def left(self, sequence: Sequence) -> None:  # noqa: B027
        """A sequence has ended."""

    def service(self) -> dict[str, float]:
        """What each active tenant was served so far, where the policy counts that."""
        return {}


def load_policy(name: str, config: SchedulerConfig) -> Policy:
    """The policy of that name or import path.

    Raises:
        ValueError: There is none, or it is not a Policy.
    """
    module, _, attribute = POLICIES.get(name, name).partition(":")
    try:
        policy = getattr(importlib.import_module(module), attribute)(config)
    except Exception as error:
        # A module of somebody's own can fail in any way.
        known = ", ".join(POLICIES)
        raise ValueError(f"no policy {name!r} ({error}); there are {known}") from error
    if not isinstance(policy, Policy):
        raise ValueError(f"{name} is not a Policy")
    return policy
