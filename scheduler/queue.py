"""The requests that wait, in lines, and their deadlines."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

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

    Attributes:
        load: Of all requests.
        classes: The load of each class.
        tenants: The load of each tenant that has any.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, _Ticket] = {}
        self._lines: dict[Hashable, list[_Ticket]] = {}
        self._deferred: dict[Awaited, list[_Ticket]] = {}
        self.load = Load()
        self.classes = {priority: Load() for priority in Priority}
        self.tenants: dict[str, Load] = {}

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
        if not self.tenants[sequence.request.tenant].requests:
            del self.tenants[sequence.request.tenant]

    def defer(self, sequence: Sequence, awaited: Awaited) -> None:
        """Let a sequence wait for what another one computes."""
        self._leave_line(sequence)
        self._stand(sequence, awaited)

    def resume(
        self, computing: Callable[[Awaited], bool], line: Callable[[Sequence], Hashable]
    ) -> None:
        """Put the deferred sequences back into lines for which nothing is computed any more."""
        for awaited, tickets in list(self._deferred.items()):
            if not computing(awaited):
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
        return min(self.classes[priority].requests, (mine + 1) * max(lines, 1) - 1)

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

    def deferrals(self) -> Iterator[tuple[Sequence, Awaited]]:
        """The deferred requests, with what each waits for."""
        for awaited, tickets in self._deferred.items():
            yield from ((ticket.sequence, awaited) for ticket in tickets)

    def of_tenant(self, tenant: str) -> Load:
        """The load of a tenant."""
        return self.tenants.get(tenant) or Load()

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

    def _group(self, line: Hashable) -> dict[Any, list[_Ticket]]:
        return self._deferred if isinstance(line, Awaited) else self._lines

    def _loads(self, sequence: Sequence) -> tuple[Load, ...]:
        request = sequence.request
        tenant = self.tenants.setdefault(request.tenant, Load())
        return (self.load, self.classes[request.priority], tenant)


class Deadlines:
    """The keys that have deadlines, the earliest first."""

    def __init__(self) -> None:
        self._sorted: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, key: int, deadline: float) -> None:
        """Remember a deadline, in seconds of the engine's clock."""
        bisect.insort(self._sorted, (deadline, key))

    def discard(self, key: int, deadline: float) -> None:
        """Forget a key, if it is remembered with that deadline."""
        place = bisect.bisect_left(self._sorted, (deadline, key))
        if self._sorted[place : place + 1] == [(deadline, key)]:
            del self._sorted[place]

    def pop_overdue(self, now: float) -> list[int]:
        """Take out the keys whose deadline is not after `now`, the earliest first."""
        count = bisect.bisect_right(self._sorted, (now, math.inf))
        overdue = [key for _, key in self._sorted[:count]]
        del self._sorted[:count]
        return overdue
