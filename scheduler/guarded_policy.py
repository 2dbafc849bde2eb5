"""A policy of somebody's own, which may raise, and the default that then takes its place."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.policies.fair import FairPolicy
from llm_serving_engine.scheduler.policy import Key, Policy
from llm_serving_engine.scheduler.sequence import Sequence

T = TypeVar("T")


def guarded(policy: Policy, config: SchedulerConfig) -> Policy:
    """The policy, guarded where there is another to fall back to."""
    return policy if isinstance(policy, FairPolicy) else GuardedPolicy(policy, config)


class GuardedPolicy(Policy):
    """Asks a policy until it raises or answers nonsense, and from then on the default."""

    def __init__(self, policy: Policy, config: SchedulerConfig) -> None:
        super().__init__(config)
        self._policy = policy
        self._live: dict[int, Sequence] = {}

    @property
    def strict_classes(self) -> bool:
        """See Policy."""
        return self._policy.strict_classes

    def key(self, sequence: Sequence, now: float) -> Key:
        """See Policy; numbers in any case."""
        return self._ask(lambda policy: _numbers(policy.key(sequence, now)))

    def line(self, sequence: Sequence) -> Hashable:
        """See Policy; hashable in any case."""
        return self._ask(lambda policy: _hashable(policy.line(sequence)))

    def submitted(self, sequence: Sequence) -> None:
        """See Policy."""
        self._ask(lambda policy: policy.submitted(sequence))
        self._live[sequence.key] = sequence

    def served(self, sequence: Sequence, prompt_tokens: int, output_tokens: int) -> None:
        """See Policy."""
        self._ask(lambda policy: policy.served(sequence, prompt_tokens, output_tokens))

    def left(self, sequence: Sequence) -> None:
        """See Policy."""
        self._ask(lambda policy: policy.left(sequence))
        del self._live[sequence.key]

    def service(self) -> dict[str, float]:
        """See Policy."""
        return self._ask(lambda policy: dict(policy.service()))

    def _ask(self, ask: Callable[[Policy], T]) -> T:
        try:
            return ask(self._policy)
        except Exception as error:
            if isinstance(self._policy, FairPolicy):
                raise  # a bug of ours, which the engine answers for
            self._replace(error)
            return ask(self._policy)

    def _replace(self, error: Exception) -> None:
        """Put the default in the place of the policy that raised; it is told of all requests."""
        name = type(self._policy).__name__
        self.failure = f"the policy {name} raised {type(error).__name__}: {error}"
        self._policy = FairPolicy(self.config)
        for sequence in self._live.values():
            self._policy.submitted(sequence)


def _numbers(key: Key) -> Key:
    """The key itself. Raises TypeError or ValueError where it cannot be compared."""
    return tuple(map(float, key))


def _hashable(line: Hashable) -> Hashable:
    """The line itself. Raises TypeError where it cannot be told from others."""
    hash(line)
    return line
