from __future__ import annotations

import itertools

import pytest

from llm_serving_engine.scheduler.lifecycle import (
    TRANSITIONS,
    Event,
    IllegalTransition,
    State,
    next_state,
)


def test_every_live_state_can_be_cancelled_expired_failed_and_finished() -> None:
    for state in State:
        for event in (Event.CANCEL, Event.EXPIRE, Event.FAIL, Event.FINISH):
            assert ((state, event) in TRANSITIONS) is not state.ended


def test_what_is_not_in_the_table_raises() -> None:
    for state, event in itertools.product(State, Event):
        if (state, event) not in TRANSITIONS:
            with pytest.raises(IllegalTransition, match=f"{event.value} while {state.value}"):
                next_state(state, event)


def test_all_states_are_reached_from_waiting() -> None:
    reached, frontier = {State.WAITING}, [State.WAITING]
    while frontier:
        state = frontier.pop()
        for (source, _), target in TRANSITIONS.items():
            if source is state and target not in reached:
                reached.add(target)
                frontier.append(target)
    assert reached == set(State)


def test_only_prefill_and_decode_hold_a_slot() -> None:
    assert {state for state in State if state.running} == {State.PREFILL, State.DECODE}
