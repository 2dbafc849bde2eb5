from __future__ import annotations

import weakref
from contextlib import suppress

import hypothesis.strategies as st
from hypothesis import given
from stepping import ask, new_scheduler, run_step

from llm_serving_engine.scheduler.errors import DeadlinePassed, Unavailable
from llm_serving_engine.scheduler.events import Moved
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import Priority


@given(st.lists(st.floats(1, 10), max_size=20), st.sets(st.integers(0, 19)), st.floats(1, 10))
def test_deadlines_pass_in_their_order_among_those_that_live(
    deadlines: list[float], gone: set[int], now: float
) -> None:
    scheduler, live = new_scheduler(slots=1), []
    for place, deadline in enumerate(deadlines):
        with suppress(DeadlinePassed):
            sequence = scheduler.submit(ask(deadline=deadline), now=0.0)
            if place in gone:
                scheduler.cancel(sequence.key, 0.5)
            else:
                live.append(deadline)
    scheduler.take_events()
    scheduler.schedule(now)
    expired = [
        event.sequence.request.deadline
        for event in scheduler.take_events()
        if isinstance(event, Moved) and event.transition.state is State.EXPIRED
    ]
    overdue = sorted(deadline for deadline in live if deadline <= now)
    assert expired[: len(overdue)] == overdue


def test_nothing_keeps_the_error_of_a_request_that_has_ended() -> None:
    scheduler = new_scheduler()
    sequence = scheduler.submit(ask(max_tokens=9), now=0.0)
    run_step(scheduler)
    error = Unavailable("the server is shutting down")
    scheduler.cancel(sequence.key, 1.0, error=error)
    assert sequence.error is error
    assert scheduler.cache.slots[0].retained is not None
    scheduler.take_events()
    kept = weakref.ref(error)
    del sequence, error
    assert kept() is None


def test_the_memory_of_deadlines_follows_the_live_requests() -> None:
    scheduler = new_scheduler()
    for _ in range(1000):
        scheduler.cancel(scheduler.submit(ask(deadline=1e9), now=0.0).key, 0.0)
        scheduler.schedule(0.0)
        assert not scheduler._live._deadlines


def test_what_waits_again_ends_as_soon_as_it_cannot_be_in_time() -> None:
    scheduler = new_scheduler(slots=1, context=1000, snapshot_bytes_max=0)
    sequence = scheduler.submit(ask("a", 3, 200, deadline=10.0, priority=Priority.LOW), 0.0)
    for now in (*[8.8] * 60, 9.0):
        run_step(scheduler, now=now)
    assert 9.0 < scheduler.admission.latest_start(sequence) < 10.0
    scheduler.submit(ask("b", 3, 900, priority=Priority.HIGH), 9.0)
    run_step(scheduler, now=9.0)
    assert sequence.slot is None
    run_step(scheduler, now=scheduler.admission.latest_start(sequence) + 0.01)
    assert sequence.state is State.EXPIRED
