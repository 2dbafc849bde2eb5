from __future__ import annotations

import enum
import itertools
from collections.abc import Mapping
from typing import Any

import pytest

from llm_serving_engine.scheduler.lifecycle import (
    SLOT_TRANSITIONS,
    SNAPSHOT_TRANSITIONS,
    TRANSITIONS,
    Event,
    IllegalTransition,
    SlotEvent,
    SlotState,
    SnapshotEvent,
    SnapshotState,
    State,
    following,
)

TABLES: list[Any] = [
    pytest.param(TRANSITIONS, State, Event, State.WAITING, id="requests"),
    pytest.param(SLOT_TRANSITIONS, SlotState, SlotEvent, SlotState.FREE, id="slots"),
    pytest.param(
        SNAPSHOT_TRANSITIONS, SnapshotState, SnapshotEvent, SnapshotState.PENDING, id="snapshots"
    ),
]
Table = Mapping[tuple[Any, Any], Any]


def test_every_live_state_can_be_cancelled_expired_failed_and_finished() -> None:
    for state in State:
        for event in (Event.CANCEL, Event.EXPIRE, Event.FAIL, Event.FINISH):
            assert ((state, event) in TRANSITIONS) is not state.ended


@pytest.mark.parametrize(("table", "states", "events", "first"), TABLES)
def test_what_is_not_in_a_table_raises(
    table: Table, states: type[enum.Enum], events: type[enum.Enum], first: enum.Enum
) -> None:
    assert first in states
    for state, event in itertools.product(states, events):
        if (state, event) not in table:
            with pytest.raises(IllegalTransition, match=f"{event.value} while {state.value}"):
                following(table, state, event)


@pytest.mark.parametrize(("table", "states", "events", "first"), TABLES)
def test_all_states_are_reached_and_all_events_count(
    table: Table, states: type[enum.Enum], events: type[enum.Enum], first: enum.Enum
) -> None:
    reached, frontier = {first}, [first]
    while frontier:
        state = frontier.pop()
        for (source, _), target in table.items():
            if source is state and target not in reached:
                reached.add(target)
                frontier.append(target)
    assert reached == set(states)
    # A request begins with SUBMIT; every other event leads from state to state.
    assert {event for _, event in table} == set(events) - {Event.SUBMIT}


def test_only_prefill_and_decode_hold_a_slot() -> None:
    assert {state for state in State if state.running} == {State.PREFILL, State.DECODE}
