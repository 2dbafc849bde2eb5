"""The requests that wait, in lines."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Collection, Hashable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from llm_serving_engine.scheduler.request import Priority
from llm_serving_engine.scheduler.sequence import Sequence


@dataclass(slots=True)
class Load:
    """Requests, and the tokens they ask for: prompts, and all in all."""

    requests: int = 0
    prompt_tokens: int = 0
    tokens: int = 0

    def add(self, sequence: Sequence, sign: int = 1) -> None:
        """Count a sequence in, or out."""
        self.requests += sign
        self.prompt_tokens += sign * len(sequence.request.prompt)
        self.tokens += sign * sequence.request.tokens


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

    def __init__(self, line: Callable[[Sequence], Hashable]) -> None:
        """Begin empty; `line` says which line a sequence stands in."""
        self._line = line
        self._waiting: dict[Sequence, Hashable] = {}
        self._lines: dict[Hashable, list[Sequence]] = {}
        self.load = Load()
        self.classes = {priority: Load() for priority in Priority}
        self.tenants: dict[str, Load] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait."""
        self._stand(sequence, self._line(sequence))
        for load in self._loads(sequence):
            load.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Let a sequence wait no longer."""
        self._leave(sequence)
        del self._waiting[sequence]
        for load in self._loads(sequence):
            load.add(sequence, -1)
        if not self.tenants[sequence.request.tenant].requests:
            del self.tenants[sequence.request.tenant]

    def defer(self, sequence: Sequence, awaited: Awaited) -> None:
        """Let a sequence wait for what another one computes."""
        self._leave(sequence)
        self._stand(sequence, awaited)

    def resume(self, computing: Callable[[Awaited], bool]) -> None:
        """Put the deferred sequences back into lines for which nothing is computed any more."""
        for awaited in [line for line in self._lines if isinstance(line, Awaited)]:
            if not computing(awaited):
                for sequence in list(self._lines[awaited]):
                    self._leave(sequence)
                    self._stand(sequence, self._line(sequence))

    def heads(self, busy: Collection[int] = (), *, unhurried: bool = False) -> Iterator[Sequence]:
        """The first of each line that can run.

        Args:
            busy: Keys of requests that cannot.
            unhurried: Whether those with deadlines cannot.
        """
        for line in self._served():
            for sequence in line:
                hurried = sequence.request.deadline < math.inf
                if sequence.key not in busy and not (unhurried and hurried):
                    yield sequence
                    break

    def ahead(self, sequence: Sequence) -> int:
        """How many requests of its class are served before a newcomer.

        Lines of a class are served in turn.
        """
        mine, priority = len(self._lines.get(self._line(sequence), ())), sequence.request.priority
        lines = sum(line[0].request.priority is priority for line in self._served())
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
        for sequence, line in self._waiting.items():
            if isinstance(line, Awaited):
                yield sequence, line

    def of_tenant(self, tenant: str) -> Load:
        """The load of a tenant."""
        return self.tenants.get(tenant) or Load()

    def _served(self) -> Iterator[list[Sequence]]:
        return (line for name, line in self._lines.items() if not isinstance(name, Awaited))

    def _stand(self, sequence: Sequence, line: Hashable) -> None:
        self._waiting[sequence] = line
        place = self._lines.setdefault(line, [])
        bisect.insort(place, sequence, key=lambda s: (s.arrived_at, s.key))

    def _leave(self, sequence: Sequence) -> None:
        name = self._waiting[sequence]
        line = self._lines[name]
        line.remove(sequence)
        if not line:
            del self._lines[name]

    def _loads(self, sequence: Sequence) -> tuple[Load, ...]:
        request = sequence.request
        tenant = self.tenants.setdefault(request.tenant, Load())
        return (self.load, self.classes[request.priority], tenant)
