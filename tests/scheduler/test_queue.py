from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.policies.first_come import FirstComePolicy
from llm_serving_engine.scheduler.policy import POLICIES, load_policy
from llm_serving_engine.scheduler.queue import WaitingQueue
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition


def waiting(name: str, priority: Priority = Priority.NORMAL, tokens: int = 2) -> Sequence:
    request = Request(name, (1,) * (tokens - 1), 1, priority=priority, tenant=name[0])
    return Sequence(request, [Transition(State.WAITING, 0.0)])


def test_the_policy_says_who_is_first() -> None:
    queue = WaitingQueue(FirstComePolicy(SchedulerConfig()))
    assert queue.first(0.0) is None
    late, early = waiting("late"), waiting("early")
    late.history[0] = Transition(State.WAITING, 1.0)
    queue.add(late)
    queue.add(early)
    assert queue.first(2.0) is early


def test_counts_follow_what_waits() -> None:
    queue = WaitingQueue(FirstComePolicy(SchedulerConfig()))
    low, normal = waiting("low", Priority.LOW, tokens=5), waiting("normal", tokens=7)
    queue.add(low)
    queue.add(normal)
    assert (len(queue), queue.tokens) == (2, 12)
    assert queue.of_class(Priority.LOW).requests == 1
    assert queue.of_tenant("n").tokens == 7
    assert queue.highest_class() is Priority.NORMAL
    queue.remove(normal)
    assert (len(queue), queue.tokens) == (1, 5)
    assert queue.highest_class() is Priority.LOW
    assert list(queue.tenants()) == ["l"]
    queue.remove(low)
    assert queue.highest_class() is None
    assert queue.tenants() == {}


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
def test_the_head_of_some_line_goes_before_everybody(
    name: str,
    arrivals: list[tuple[float, Priority, str, int, bool]],
    removed: set[int],
    now: float,
) -> None:
    policy = load_policy(name, SchedulerConfig())
    queue = WaitingQueue(policy)
    sequences = []
    for number, (at, priority, tenant, tokens, ran_before) in enumerate(arrivals):
        sequence = waiting(f"{tenant}{number}", priority, tokens + 1)
        sequence.history[0] = Transition(State.WAITING, at)
        sequence.preemptions = int(ran_before)
        policy.submitted(sequence)
        policy.served(sequence, tokens, 0)
        queue.add(sequence)
        sequences.append(sequence)
    for number, sequence in enumerate(sequences):
        if number in removed:
            queue.remove(sequence)
    assert len(list(queue)) == len(queue)
    first = queue.first(now)
    if first is None:
        assert len(queue) == 0
    else:
        assert policy.key(first, now) == min(policy.key(other, now) for other in queue)
