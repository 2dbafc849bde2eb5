"""Who goes first within a class: what a scheduling policy decides, and nothing more.

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
    """Orders the requests that wait. Only `key` must be written; the rest is told.

    A policy that raises is replaced by the default one.

    Attributes:
        strict_classes: Whether a higher class goes before a lower one, and takes its
            slots. Without, `key` alone decides, and what has begun goes on.
        failure: Why the default policy decides in its place; else empty.
    """

    strict_classes = True
    failure = ""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config

    @abstractmethod
    def key(self, sequence: Sequence, now: float) -> Key:
        """What waiting sequences are ordered by."""

    def line(self, sequence: Sequence) -> Hashable:
        """Which line a sequence waits in: the first to arrive of a line goes before the others.

        It must stay the same while the sequence waits. By default each sequence is
        a line of its own, so all of them are asked for their keys.
        """
        return sequence.key

    def submitted(self, sequence: Sequence) -> None:  # noqa: B027
        """A sequence has come into the queue."""

    def served(self, sequence: Sequence, prompt_tokens: int, output_tokens: int) -> None:  # noqa: B027
        """A sequence was given tokens, or gives prompt tokens back that were not computed."""

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
    if not (module and attribute):
        known = ", ".join(POLICIES)
        raise ValueError(f"{name!r} is neither a policy ({known}) nor MODULE:CLASS")
    try:
        kind = getattr(importlib.import_module(module), attribute)
        policy = None if isinstance(kind, type) and not issubclass(kind, Policy) else kind(config)
    except Exception as error:
        # A module from outside can fail in any way.
        raise ValueError(f"policy {name!r} cannot be loaded: {error}") from error
    if not isinstance(policy, Policy):
        raise ValueError(f"{name!r} is not a subclass of {Policy.__module__}.{Policy.__name__}")
    return policy
