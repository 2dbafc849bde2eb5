"""All states: three tables of transitions, for requests, slots, and snapshots.

Every change of state goes through `following`; an event that the table does not
allow raises `IllegalTransition`. The diagrams in ARCHITECTURE.md are drawn from
these tables (`make diagrams`). What else can be said of a request is derived:

- deferred: it waits for a prefix that another request computes right now;
- restoring: a step in flight copies or restores its cache.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TypeVar

S = TypeVar("S", bound=enum.Enum)
E = TypeVar("E", bound=enum.Enum)


class State(enum.Enum):
    """Where a request is."""

    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to the request."""
        return self in _ENDED

    @property
    def running(self) -> bool:
        """Whether the request holds a slot."""
        return self in _RUNNING


_ENDED = frozenset({State.FINISHED, State.CANCELLED, State.EXPIRED, State.FAILED})
_RUNNING = frozenset({State.PREFILL, State.DECODE})


class Event(enum.Enum):
    """What can happen to a request: the reason of a transition."""

    SUBMIT = "submit"  # it comes into the queue
    ADMIT = "admit"  # it gets a slot
    FIRST_TOKEN = "first token"  # its prompt is computed
    PREEMPT = "preempt"  # a higher class takes its slot
    LOSE = "lose"  # its runner died, or its cache could not be restored
    # Its output is complete. Even while it waits or prefills: its text is read
    # behind the steps, and may hold a stop sequence after its slot was taken.
    FINISH = "finish"
    CANCEL = "cancel"  # its caller has gone, or says stop
    EXPIRE = "expire"  # its deadline has passed, or cannot be met any more
    FAIL = "fail"  # it cannot go on, or a higher class displaced it


_ENDS = {
    Event.FINISH: State.FINISHED,
    Event.CANCEL: State.CANCELLED,
    Event.EXPIRE: State.EXPIRED,
    Event.FAIL: State.FAILED,
}
TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.WAITING, Event.ADMIT): State.PREFILL,
    (State.PREFILL, Event.FIRST_TOKEN): State.DECODE,
    (State.PREFILL, Event.PREEMPT): State.WAITING,
    (State.PREFILL, Event.LOSE): State.WAITING,
    (State.DECODE, Event.PREEMPT): State.WAITING,
    (State.DECODE, Event.LOSE): State.WAITING,
} | {
    (state, event): end
    for state in (State.WAITING, State.PREFILL, State.DECODE)
    for event, end in _ENDS.items()
}


class SlotState(enum.Enum):
    """Where a slot is."""

    FREE = "free"  # nothing in it is of use
    RETAINED = "retained"  # it keeps the prefix of a request that has left
    HELD = "held"  # a request runs in it


class SlotEvent(enum.Enum):
    """What can happen to a slot."""

    TAKE = "take"  # a request gets it
    RETAIN = "retain"  # its request leaves, or it gets what another slot keeps
    EVICT = "evict"  # what it keeps is of no use


SLOT_TRANSITIONS: dict[tuple[SlotState, SlotEvent], SlotState] = {
    (SlotState.FREE, SlotEvent.TAKE): SlotState.HELD,
    (SlotState.RETAINED, SlotEvent.TAKE): SlotState.HELD,
    (SlotState.HELD, SlotEvent.RETAIN): SlotState.RETAINED,
    (SlotState.RETAINED, SlotEvent.RETAIN): SlotState.RETAINED,
    (SlotState.FREE, SlotEvent.RETAIN): SlotState.RETAINED,
    (SlotState.RETAINED, SlotEvent.EVICT): SlotState.FREE,
}


class SnapshotState(enum.Enum):
    """Where a saved cache is."""

    PENDING = "pending"  # the step that saves it is not done
    STORED = "stored"
    GONE = "gone"


class SnapshotEvent(enum.Enum):
    """What can happen to a saved cache."""

    SAVED = "saved"
    DROP = "drop"  # its request has a slot again, or has ended; its memory is needed, or lost


SNAPSHOT_TRANSITIONS: dict[tuple[SnapshotState, SnapshotEvent], SnapshotState] = {
    (SnapshotState.PENDING, SnapshotEvent.SAVED): SnapshotState.STORED,
    (SnapshotState.PENDING, SnapshotEvent.DROP): SnapshotState.GONE,
    (SnapshotState.STORED, SnapshotEvent.DROP): SnapshotState.GONE,
}


class IllegalTransition(RuntimeError):
    """An event that the table does not allow: a bug in the scheduler."""


def following(table: Mapping[tuple[S, E], S], state: S, event: E) -> S:
    """The state that `event` leads to. Raises IllegalTransition where there is none."""
    try:
        return table[state, event]
    except KeyError:
        raise IllegalTransition(f"{event.value} while {state.value}") from None
