"""The requests that wait."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Hashable, Iterator
from typing import NamedTuple

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


class _Ticket(NamedTuple):
    """A place in a line: by arrival, and among equals by who was added first."""

    arrived_at: float
    number: int
    sequence: Sequence
    line: Hashable


class WaitingQueue:
    """Everybody who waits, in lines, with counts by class and tenant.

    The policy says in which line each waits and which line is next, so that
    it is asked about the heads of the lines only, not about everybody.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._policy_failure = ""
        self._waiting: dict[str, _Ticket] = {}
        self._lines: dict[Hashable, list[_Ticket]] = {}
        self._numbers = itertools.count()
        self._all = Load()
        self._by_class = {priority: Load() for priority in Priority}
        self._by_tenant: dict[str, Load] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return (ticket.sequence for ticket in self._waiting.values())

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait."""
        line = self._policy.line(sequence)
        ticket = _Ticket(sequence.arrived_at, next(self._numbers), sequence, line)
        self._waiting[sequence.request.id] = ticket
        bisect.insort(self._lines.setdefault(line, []), ticket)
        for load in self._loads(sequence):
            load.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """A sequence waits no longer."""
        ticket = self._waiting.pop(sequence.request.id)
        line = self._lines[ticket.line]
        del line[bisect.bisect_left(line, ticket)]
        if not line:
            del self._lines[ticket.line]
        for load in self._loads(sequence):
            load.add(sequence, -1)
        if not self._by_tenant[sequence.request.tenant].requests:
            del self._by_tenant[sequence.request.tenant]

    def first(self, now: float) -> Sequence | None:
        """Who is to be served next."""
        first = self._first(now)
        if self._policy.failure != self._policy_failure:
            # Another policy decides from here on, by lines of its own.
            self._policy_failure = self._policy.failure
            self._line_up_again()
            first = self._first(now)
        return first

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

    def _first(self, now: float) -> Sequence | None:
        heads = (line[0].sequence for line in self._lines.values())
        return min(heads, key=lambda sequence: self._policy.key(sequence, now), default=None)

    def _line_up_again(self) -> None:
        self._lines = {}
        for request_id, ticket in self._waiting.items():
            moved = ticket._replace(line=self._policy.line(ticket.sequence))
            self._waiting[request_id] = moved
            bisect.insort(self._lines.setdefault(moved.line, []), moved)

    def _loads(self, sequence: Sequence) -> tuple[Load, ...]:
        request = sequence.request
        tenant = self._by_tenant.setdefault(request.tenant, Load())
        return (self._all, self._by_class[request.priority], tenant)
