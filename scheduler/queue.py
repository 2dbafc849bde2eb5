"""The requests that wait."""

from __future__ import annotations

from collections.abc import Iterator

from llm_serving_engine.scheduler.policy import Policy
from llm_serving_engine.scheduler.request import Priority
from llm_serving_engine.scheduler.sequence import Sequence


class Load:
    """Requests, and the tokens they ask for: prompts, and all in all."""

    __slots__ = ("prompt_tokens", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = 0
        self.prompt_tokens = 0
        self.tokens = 0

    def add(self, sequence: Sequence, sign: int = 1) -> None:
        """Count a sequence in, or out."""
        self.requests += sign
        self.prompt_tokens += sign * len(sequence.request.prompt)
        self.tokens += sign * sequence.request.tokens


class WaitingQueue:
    """Everybody who waits, with counts by class and tenant; a policy says who is next."""

    def __init__(self) -> None:
        self._waiting: dict[str, Sequence] = {}
        self._all = Load()
        self._by_class = {priority: Load() for priority in Priority}
        self._by_tenant: dict[str, Load] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting.values())

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait."""
        self._waiting[sequence.request.id] = sequence
        for load in self._loads(sequence):
            load.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """A sequence waits no longer."""
        del self._waiting[sequence.request.id]
        for load in self._loads(sequence):
            load.add(sequence, -1)
        if not self._by_tenant[sequence.request.tenant].requests:
            del self._by_tenant[sequence.request.tenant]

    def first(self, policy: Policy, now: float) -> Sequence | None:
        """Who is to be served next."""
        return min(self, key=lambda sequence: policy.key(sequence, now), default=None)

    @property
    def tokens(self) -> int:
        """Tokens that all who wait ask for."""
        return self._all.tokens

    def of_class(self, priority: Priority) -> Load:
        """Those of a class."""
        return self._by_class[priority]

    def highest_class(self) -> Priority | None:
        """The highest class of which anybody waits."""
        waiting = (priority for priority, load in self._by_class.items() if load.requests)
        return max(waiting, default=None)

    def of_tenant(self, tenant: str) -> Load:
        """Those of a tenant."""
        return self._by_tenant.get(tenant) or Load()

    def tenants(self) -> dict[str, Load]:
        """Those of each tenant that has any."""
        return dict(self._by_tenant)

    def _loads(self, sequence: Sequence) -> tuple[Load, ...]:
        request = sequence.request
        tenant = self._by_tenant.setdefault(request.tenant, Load())
        return (self._all, self._by_class[request.priority], tenant)
