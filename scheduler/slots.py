"""The runner's slots and snapshots, where sequences can go, and what slots will hold."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from llm_serving_engine.scheduler.lifecycle import (
    SNAPSHOT_TRANSITIONS,
    SlotState,
    SnapshotEvent,
    SnapshotState,
    following,
)
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Copy, Operation, Output, Restore, Step


@dataclass(slots=True, eq=False)
class Slot:
    """One slot. Only `Cache` writes it.

    Attributes:
        index: Its number.
        state: FREE, RETAINED, or HELD.
        sequence: What runs in it.
        length: Tokens that the runner has in it.
        usable: How many of them, from the first on, are those of `sequence`, or
            of `retained`: an upper limit, as `length` is one.
        retained: The sequence that left them, while they are of use.
        last_used: When that one left.
    """

    index: int
    state: SlotState = SlotState.FREE
    sequence: Sequence | None = None
    length: int = 0
    usable: int = 0
    retained: Sequence | None = None
    last_used: float = 0.0

    @property
    def eviction_order(self) -> tuple[bool, float]:
        """Who is evicted first: what retains nothing, then what was used longest ago."""
        return self.usable > 0, self.last_used

    @property
    def key(self) -> int | None:
        """The key of the sequence that runs in it."""
        return None if self.sequence is None else self.sequence.key


@dataclass(slots=True, eq=False)
class Snapshot:
    """A saved cache: the first `tokens` tokens of a sequence that waits. Only `Cache` writes it."""

    number: int
    sequence: Sequence
    tokens: int
    last_used: float
    state: SnapshotState = SnapshotState.PENDING

    def advance(self, event: SnapshotEvent) -> None:
        """Take a transition. Raises IllegalTransition."""
        self.state = following(SNAPSHOT_TRANSITIONS, self.state, event)


class Place(NamedTuple):
    """Where a sequence can go.

    Attributes:
        slot: An idle slot, or the one that a row moves to.
        tokens: How many of the sequence's tokens are there after the operations.
        operations: The copies or the restore that go before.
    """

    slot: Slot
    tokens: int = 0
    operations: tuple[Copy | Restore, ...] = ()


class Outlook:
    """What the slots will hold when all that is in flight is done: derived, never stored.

    Attributes:
        lengths: Of each slot, as the runner will have it.
        usable: Of each slot, where its sequence goes on.
        draws: How many tokens of each key are being drawn.
        keys: Keys that have runs in flight.
    """

    def __init__(
        self, slots: tuple[Slot, ...], steps: Iterable[Step], pending: Iterable[Operation]
    ) -> None:
        """Derive it from the steps in flight, and the operations that go with the next one."""
        self.lengths = [slot.length for slot in slots]
        self.usable = [slot.usable for slot in slots]
        self.draws: Counter[int] = Counter()
        self.keys: set[int] = set()
        for step in steps:
            self._add(step.operations)
            for run in step.runs:
                end = run.end + step.calls - 1
                self.lengths[run.slot] = end
                if slots[run.slot].key == run.key:
                    self.usable[run.slot] = end
                self.keys.add(run.key)
                self.draws[run.key] += step.calls if run.output & Output.SAMPLE else 0
        self._add(pending)

    def _add(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            if isinstance(operation, Copy):
                self.lengths[operation.target] = operation.tokens
            elif isinstance(operation, Restore):
                self.lengths[operation.slot] = operation.tokens

    def position(self, slot: int) -> int:
        """Where the sequence of a slot goes on."""
        return min(self.usable[slot], self.lengths[slot])


def count_groups(slots: Iterable[int]) -> int:
    """How many runs of consecutive numbers there are in ascending `slots`."""
    return sum(slot != before + 1 for before, slot in itertools.pairwise((-2, *slots)))
