from __future__ import annotations

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.policies.first_come import FirstComePolicy
from llm_serving_engine.scheduler.queue import WaitingQueue
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition


def waiting(name: str, priority: Priority = Priority.NORMAL, tokens: int = 2) -> Sequence:
    request = Request(name, (1,) * (tokens - 1), 1, priority=priority, tenant=name[0])
    return Sequence(request, [Transition(State.WAITING, 0.0)])


def test_the_policy_says_who_is_first() -> None:
    queue, policy = WaitingQueue(), FirstComePolicy(SchedulerConfig())
    assert queue.first(policy, 0.0) is None
    late, early = waiting("late"), waiting("early")
    late.history[0] = Transition(State.WAITING, 1.0)
    queue.add(late)
    queue.add(early)
    assert queue.first(policy, 2.0) is early


def test_counts_follow_what_waits() -> None:
    queue = WaitingQueue()
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
