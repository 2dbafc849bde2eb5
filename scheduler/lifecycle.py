"""The life of a request: one table of transitions, and nothing beside it.

Every change of state goes through `next_state`; an event that the table does
not allow raises `IllegalTransition`. The diagram in ARCHITECTURE.md is drawn
from the table (`make diagrams`).
"""

from __future__ import annotations

import enum


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
    """What can happen to a request."""

    ADMIT = "admit"  # it gets a slot
    FIRST_TOKEN = "first token"  # its prompt is computed
    PREEMPT = "preempt"  # its slot is taken, or its runner died: it will go on later
    # Its output is complete. Even while it waits or prefills: its text is read
    # behind the steps, and may hold a stop sequence after its slot was taken.
    FINISH = "finish"
    CANCEL = "cancel"  # its caller has gone, or says stop
    EXPIRE = "expire"  # its deadline has passed
    FAIL = "fail"  # it cannot go on


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.WAITING, Event.ADMIT): State.PREFILL,
    (State.WAITING, Event.FINISH): State.FINISHED,
    (State.WAITING, Event.CANCEL): State.CANCELLED,
    (State.WAITING, Event.EXPIRE): State.EXPIRED,
    (State.WAITING, Event.FAIL): State.FAILED,
    (State.PREFILL, Event.FIRST_TOKEN): State.DECODE,
    (State.PREFILL, Event.PREEMPT): State.WAITING,
    (State.PREFILL, Event.FINISH): State.FINISHED,
    (State.PREFILL, Event.CANCEL): State.CANCELLED,
    (State.PREFILL, Event.EXPIRE): State.EXPIRED,
    (State.PREFILL, Event.FAIL): State.FAILED,
    (State.DECODE, Event.FINISH): State.FINISHED,
    (State.DECODE, Event.PREEMPT): State.WAITING,
    (State.DECODE, Event.CANCEL): State.CANCELLED,
    (State.DECODE, Event.EXPIRE): State.EXPIRED,
    (State.DECODE, Event.FAIL): State.FAILED,
}


class IllegalTransition(RuntimeError):
    """An event that the table does not allow: a bug in the scheduler."""


def next_state(state: State, event: Event) -> State:
    """The state that `event` leads to. Raises IllegalTransition where there is none."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"{event.value} while {state.value}") from None
