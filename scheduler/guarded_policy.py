"""A policy of somebody's own, which may raise, and the default that then takes its place."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.policies.fair import FairPolicy
from llm_serving_engine.scheduler.policy import Key, Policy
from llm_serving_engine.scheduler.sequence import Sequence

T = TypeVar("T")


class GuardedPolicy(Policy):
    """Asks a policy until it raises or answers nonsense, and from then on the default.

    The default is told everything from the start, so it knows what each tenant was served.
    """

    def __init__(self, policy: Policy, config: SchedulerConfig) -> None:
        super().__init__(config)
        self._policy, self._default = policy, FairPolicy(config)
        self.strict_classes = policy.strict_classes

    def key(self, sequence: Sequence, now: float) -> Key:
        """See Policy; numbers in any case."""
        return self._ask(lambda policy: _comparable(policy.key(sequence, now)))

    def line(self, sequence: Sequence) -> Hashable:
        """See Policy; with the line of the default, so that it can order what waits by then."""
        own = self._ask(lambda policy: _hashable(policy.line(sequence)))
        return self._default.line(sequence), own

    def submitted(self, sequence: Sequence) -> None:
        """See Policy."""
        self._ask(lambda policy: policy.submitted(sequence))

    def served(self, sequence: Sequence, prompt_tokens: int, output_tokens: int) -> None:
        """See Policy."""
        self._ask(lambda policy: policy.served(sequence, prompt_tokens, output_tokens))

    def left(self, sequence: Sequence) -> None:
        """See Policy."""
        self._ask(lambda policy: policy.left(sequence))

    def service(self) -> dict[str, float]:
        """See Policy."""
        return self._ask(lambda policy: dict(policy.service()))

    def _ask(self, ask: Callable[[Policy], T]) -> T:
        # What the default raises is a bug of ours, which the engine answers for.
        default = ask(self._default)
        if self.failure:
            return default
        try:
            return ask(self._policy)
        except Exception as error:
            name = type(self._policy).__name__
            self.failure = f"the policy {name} raised {type(error).__name__}: {error}"
            self.strict_classes = self._default.strict_classes
            return default


def _comparable(key: Key) -> Key:
    """The key itself. Raises TypeError where it cannot be compared with others."""
    if not isinstance(key, tuple) or not all(isinstance(x, int | float) and x == x for x in key):
        raise TypeError(f"key() must return a tuple of numbers, not {key!r}")
    return key


def _hashable(line: Hashable) -> Hashable:
    """The line itself. Raises TypeError where it cannot be told from others."""
    hash(line)
    return line
