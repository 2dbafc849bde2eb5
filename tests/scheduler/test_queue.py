from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.policy import POLICIES, load_policy
from llm_serving_engine.scheduler.queue import Awaited, WaitingQueue
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition


def waiting(
    key: int,
    priority: Priority = Priority.NORMAL,
    tokens: int = 2,
    at: float = 0.0,
    tenant: str = "",
) -> Sequence:
    request = Request(f"r{key}", (1,) * (tokens - 1), 1, priority=priority, tenant=tenant)
    return Sequence(request, key, [Transition(State.WAITING, at, Event.SUBMIT)])


def by_tenant() -> WaitingQueue:
    """A queue with a line for each tenant."""
    return WaitingQueue(lambda sequence: sequence.request.tenant)


def test_the_first_to_arrive_is_the_head_of_its_line() -> None:
    queue = by_tenant()
    assert list(queue.heads()) == []
    late, early = waiting(1, at=1.0), waiting(2, at=0.0)
    other = waiting(3, at=5.0, tenant="other")
    for sequence in (late, early, other):
        queue.add(sequence)
    assert list(queue.heads()) == [early, other]
    queue.remove(early)
    assert list(queue.heads()) == [late, other]


def test_counts_follow_what_waits() -> None:
    queue = by_tenant()
    low, normal = waiting(1, Priority.LOW, tokens=5, tenant="l"), waiting(2, tokens=7, tenant="n")
    queue.add(low)
    queue.add(normal)
    assert (len(queue), queue.load.tokens) == (2, 12)
    assert queue.classes[Priority.LOW].requests == 1
    assert queue.of_tenant("n").tokens == 7
    queue.remove(normal)
    assert (len(queue), queue.load.tokens) == (1, 5)
    assert list(queue.tenants) == ["l"]
    queue.remove(low)
    assert queue.tenants == {}


def test_a_deferred_request_waits_in_no_line() -> None:
    queue = by_tenant()
    donor, one, other = waiting(1), waiting(2), waiting(3)
    for sequence in (one, other):
        queue.add(sequence)
    queue.defer(one, Awaited(donor, 64))
    assert list(queue.heads()) == [other]
    assert (len(queue), len(list(queue.deferrals()))) == (2, 1)
    queue.resume(lambda awaited: awaited.donor is donor)
    assert len(list(queue.deferrals())) == 1
    queue.resume(lambda awaited: False)
    assert list(queue.heads()) == [one]
    assert len(list(queue.deferrals())) == 0
    queue.defer(one, Awaited(donor, 64))
    queue.remove(one)
    assert (len(queue), len(list(queue.deferrals()))) == (1, 0)


def test_the_newest_of_the_lowest_class_is_displaced() -> None:
    queue = by_tenant()
    low, newer, normal = waiting(1, Priority.LOW), waiting(2, Priority.LOW), waiting(3)
    ran = waiting(4, Priority.LOW)
    for event in (Event.ADMIT, Event.PREEMPT):
        ran.advance(event, 1.0)
    for sequence in (low, newer, normal, ran):
        queue.add(sequence)
    assert queue.displaceable(Priority.HIGH, None) is newer
    assert queue.displaceable(Priority.LOW, None) is None
    assert queue.displaceable(Priority.HIGH, "other") is None
    queue.remove(newer)
    queue.remove(low)
    assert queue.displaceable(Priority.HIGH, None) is normal
    assert queue.displaceable(Priority.NORMAL, None) is None


def test_lines_of_a_class_are_served_in_turn() -> None:
    queue = by_tenant()
    for key in range(10):
        queue.add(waiting(key, tenant="busy"))
    assert queue.ahead(waiting(20, tenant="busy")) == 10
    queue.add(waiting(10, tenant="other"))
    # One more of the other's, and as many of the busy one's.
    assert queue.ahead(waiting(20, tenant="other")) == 3
    assert queue.ahead(waiting(20, Priority.HIGH, tenant="new")) == 0


arrivals = st.lists(
    st.tuples(
        st.floats(0, 1000),
        st.sampled_from(Priority),
        st.sampled_from("abc"),
        st.integers(1, 4),
        st.booleans(),
    ),
    min_size=1,
    max_size=20,
)


@pytest.mark.parametrize("name", POLICIES)
@given(arrivals=arrivals, removed=st.sets(st.integers(0, 19)), now=st.floats(1000, 2000))
def test_the_head_of_some_line_goes_before_all_others(
    name: str,
    arrivals: list[tuple[float, Priority, str, int, bool]],
    removed: set[int],
    now: float,
) -> None:
    policy = load_policy(name, SchedulerConfig())
    queue = WaitingQueue(policy.line)
    sequences = []
    for key, (at, priority, tenant, tokens, has_run) in enumerate(arrivals):
        sequence = waiting(key, priority, tokens + 1, at, tenant)
        if has_run:
            sequence.advance(Event.ADMIT, at)
            sequence.advance(Event.PREEMPT, at)
        policy.submitted(sequence)
        policy.served(sequence, tokens, 0)
        queue.add(sequence)
        sequences.append(sequence)
    for key, sequence in enumerate(sequences):
        if key in removed:
            queue.remove(sequence)
    assert len(list(queue)) == len(queue)

    def order(sequence: Sequence) -> tuple[float, ...]:
        level = -sequence.request.priority if policy.strict_classes else 0
        return (level, *policy.key(sequence, now))

    heads = list(map(order, queue.heads()))
    assert min(heads, default=None) == min(map(order, queue), default=None)
