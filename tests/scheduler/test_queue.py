from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.queue import WaitingQueue
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition


def waiting(name: str, priority: Priority = Priority.NORMAL, tokens: int = 2) -> Sequence:
    request = Request(name, prompt=(1,) * (tokens - 1), max_tokens=1, priority=priority)
    return Sequence(request, [Transition(State.WAITING, 0.0)])


@given(st.lists(st.sampled_from(Priority)))
def test_classes_go_from_the_highest_down_and_first_come_inside(classes: list[Priority]) -> None:
    queue = WaitingQueue()
    sequences = [waiting(str(i), priority) for i, priority in enumerate(classes)]
    for sequence in sequences:
        queue.append(sequence)
    assert list(queue) == sorted(sequences, key=lambda s: -s.request.priority)


def test_who_lost_a_slot_goes_before_its_class_and_behind_higher_ones() -> None:
    queue = WaitingQueue()
    first, second = waiting("first"), waiting("second")
    high = waiting("high", Priority.HIGH)
    for sequence in (first, high):
        queue.append(sequence)
    queue.push_front(second)
    assert list(queue) == [high, second, first]


def test_counts_follow_what_waits() -> None:
    queue = WaitingQueue()
    low, normal = waiting("low", Priority.LOW, tokens=5), waiting("normal", tokens=7)
    queue.append(low)
    queue.append(normal)
    assert (len(queue), queue.tokens) == (2, 12)
    assert (queue.requests_of(Priority.LOW), queue.tokens_of(Priority.LOW)) == (1, 5)
    queue.remove(low)
    assert (len(queue), queue.tokens, queue.requests_of(Priority.LOW)) == (1, 7, 0)
    assert queue.first() is normal
    queue.remove(normal)
    assert queue.first() is None
