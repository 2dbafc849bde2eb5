"""The requests that wait, in lines, and their deadlines."""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple

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
    """A place in a line: by arrival, and among equals by key."""

    arrived_at: float
    key: int
    sequence: Sequence
    line: Hashable


class Awaited(NamedTuple):
    """What a deferred request waits for: so many first tokens of a sequence."""

    donor: Sequence
    tokens: int


class WaitingQueue:
    """All requests that wait, with counts by class and tenant.

    Each stands in a line, in the order of arrival, so that only the
    heads of lines are compared. A deferred request stands in a line of those that
    wait for the same prefix; that line is not served.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, _Ticket] = {}
        self._lines: dict[Hashable, list[_Ticket]] = {}
        self._deferred: dict[Hashable, list[_Ticket]] = {}
        self._all = Load()
        self._by_class = {priority: Load() for priority in Priority}
        self._by_tenant: dict[str, Load] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return (ticket.sequence for ticket in self._waiting.values())

    def add(self, sequence: Sequence, line: Hashable) -> None:
        """Let a sequence wait in a line."""
        self._stand(sequence, line)
        for load in self._loads(sequence):
            load.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Let a sequence wait no longer."""
        self._leave_line(sequence)
        del self._waiting[sequence.key]
        for load in self._loads(sequence):
            load.add(sequence, -1)
        if not self._by_tenant[sequence.request.tenant].requests:
            del self._by_tenant[sequence.request.tenant]

    def defer(self, sequence: Sequence, awaited: Awaited) -> None:
        """Let a sequence wait for what another one computes."""
        self._leave_line(sequence)
        self._stand(sequence, awaited)

    def resume(
        self, computing: Callable[[Awaited], bool], line: Callable[[Sequence], Hashable]
    ) -> None:
        """Put the deferred sequences back into lines for which nothing is computed any more."""
        for awaited, tickets in list(self._deferred.items()):
            if not (isinstance(awaited, Awaited) and computing(awaited)):
                for ticket in list(tickets):
                    self._leave_line(ticket.sequence)
                    self._stand(ticket.sequence, line(ticket.sequence))

    def reorder(self, line: Callable[[Sequence], Hashable]) -> None:
        """Put all sequences into other lines."""
        sequences = list(self)
        self._lines.clear()
        self._deferred.clear()
        for sequence in sequences:
            self._stand(sequence, line(sequence))

    def heads(
        self, busy: frozenset[int] | set[int] = frozenset(), *, unhurried: bool = False
    ) -> Iterator[Sequence]:
        """The first of each line that can run.

        Args:
            busy: Keys of requests that cannot.
            unhurried: Whether those with deadlines cannot.
        """
        for line in self._lines.values():
            for ticket in line:
                hurried = ticket.sequence.request.deadline is not None
                if ticket.key not in busy and not (unhurried and hurried):
                    yield ticket.sequence
                    break

    def ahead(self, line: Hashable, priority: Priority) -> int:
        """How many requests of a class are served before a newcomer in a line.

        Lines of a class are served in turn.
        """
        mine = len(self._lines.get(line, ()))
        lines = sum(
            other[0].sequence.request.priority is priority for other in self._lines.values()
        )
        return min(self._by_class[priority].requests, (mine + 1) * max(lines, 1) - 1)

    def displaceable(self, below: Priority, tenant: str | None) -> Sequence | None:
        """The newest request that has never run, of the lowest class below `below`.

        Args:
            below: A class.
            tenant: Of which tenant; None for any.
        """
        waiting = (
            sequence
            for sequence in self
            if sequence.request.priority < below
            and not sequence.has_run
            and tenant in (None, sequence.request.tenant)
        )
        return min(waiting, key=lambda s: (s.request.priority, -s.key), default=None)

    @property
    def tokens(self) -> int:
        """Tokens that all waiting requests ask for."""
        return self._all.tokens

    @property
    def deferred(self) -> int:
        """How many requests are deferred."""
        return sum(map(len, self._deferred.values()))

    def deferrals(self) -> Iterator[tuple[Sequence, Awaited]]:
        """The deferred requests, with what each waits for."""
        for awaited, tickets in self._deferred.items():
            if isinstance(awaited, Awaited):
                yield from ((ticket.sequence, awaited) for ticket in tickets)

    def of_class(self, priority: Priority) -> Load:
        """The load of a class."""
        return self._by_class[priority]

    def of_tenant(self, tenant: str) -> Load:
        """The load of a tenant."""
        return self._by_tenant.get(tenant) or Load()

    @property
    def tenant_count(self) -> int:
        """How many tenants have any."""
        return len(self._by_tenant)

    def tenants(self) -> dict[str, Load]:
        """The load of each tenant that has any."""
        return dict(self._by_tenant)

    def _stand(self, sequence: Sequence, line: Hashable) -> None:
        ticket = _Ticket(sequence.arrived_at, sequence.key, sequence, line)
        self._waiting[sequence.key] = ticket
        bisect.insort(self._group(line).setdefault(line, []), ticket)

    def _leave_line(self, sequence: Sequence) -> None:
        ticket = self._waiting[sequence.key]
        group = self._group(ticket.line)
        line = group[ticket.line]
        del line[bisect.bisect_left(line, ticket)]
        if not line:
            del group[ticket.line]

    def _group(self, line: Hashable) -> dict[Hashable, list[_Ticket]]:
        return self._deferred if isinstance(line, Awaited) else self._lines

    def _loads(self, sequence: Sequence) -> tuple[Load, ...]:
        request = sequence.request
        tenant = self._by_tenant.setdefault(request.tenant, Load())
        return (self._all, self._by_class[request.priority], tenant)


class Deadlines:
    """Deadlines by key, the earliest first. Memory stays in proportion to the live ones."""

    def __init__(self) -> None:
        self._live: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []

    def add(self, key: int, deadline: float) -> None:
        """Remember a deadline, in seconds of the engine's clock."""
        self._live[key] = deadline
        heapq.heappush(self._heap, (deadline, key))

    def discard(self, key: int) -> None:
        """Forget a key, if it has a deadline."""
        if self._live.pop(key, None) is not None and len(self._heap) > 2 * len(self._live):
            self._heap = [(deadline, live) for live, deadline in self._live.items()]
            heapq.heapify(self._heap)

    def pop_overdue(self, now: float) -> list[int]:
        """Take out the keys whose deadline is not after `now`, the earliest first."""
        overdue = []
        while self._heap and self._heap[0][0] <= now:
            _, key = heapq.heappop(self._heap)
            if self._live.pop(key, None) is not None:
                overdue.append(key)
        return overdue
