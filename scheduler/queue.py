"""The requests that wait, in the order in which they are served."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from llm_serving_engine.scheduler.request import Priority
from llm_serving_engine.scheduler.sequence import Sequence


class WaitingQueue:
    """One line per class; strict between the classes, first-come inside."""

    def __init__(self) -> None:
        self._lines: dict[Priority, OrderedDict[str, Sequence]] = {
            priority: OrderedDict() for priority in sorted(Priority, reverse=True)
        }
        self._tokens = dict.fromkeys(self._lines, 0)

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def __iter__(self) -> Iterator[Sequence]:
        for line in self._lines.values():
            yield from line.values()

    def append(self, sequence: Sequence) -> None:
        """Put a sequence behind all of its class."""
        self._line(sequence)[sequence.request.id] = sequence
        self._tokens[sequence.request.priority] += sequence.request.tokens

    def push_front(self, sequence: Sequence) -> None:
        """Put a sequence before all of its class: it ran before and lost its slot."""
        self.append(sequence)
        self._line(sequence).move_to_end(sequence.request.id, last=False)

    def first(self) -> Sequence | None:
        """The sequence to be served next."""
        return next(iter(self), None)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it stands."""
        del self._line(sequence)[sequence.request.id]
        self._tokens[sequence.request.priority] -= sequence.request.tokens

    @property
    def tokens(self) -> int:
        """Tokens that all who wait ask for."""
        return sum(self._tokens.values())

    def requests_of(self, priority: Priority) -> int:
        """How many of a class wait."""
        return len(self._lines[priority])

    def tokens_of(self, priority: Priority) -> int:
        """Tokens that the waiting of a class ask for."""
        return self._tokens[priority]

    def _line(self, sequence: Sequence) -> OrderedDict[str, Sequence]:
        return self._lines[sequence.request.priority]
