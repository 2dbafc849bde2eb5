"""A policy that raises, anywhere, is replaced by the default; no request notices."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import pytest
from stepping import run_step

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.guarded_policy import GuardedPolicy
from llm_serving_engine.scheduler.policies.fair import FairPolicy
from llm_serving_engine.scheduler.policies.first_come import FirstComePolicy
from llm_serving_engine.scheduler.policy import Key
from llm_serving_engine.scheduler.request import FinishReason, Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Capabilities

METHODS = ("key", "line", "submitted", "served", "left", "service")
CONFIG = SchedulerConfig()


class Fragile(FirstComePolicy):
    """Raises in one method, from a number of calls of it on."""

    def __init__(self, method: str, calls: int) -> None:
        super().__init__(CONFIG)
        whole = getattr(self, method)

        def raising(*arguments: Any) -> Any:
            nonlocal calls
            calls -= 1
            if calls < 0:
                raise KeyError("of its own")
            return whole(*arguments)

        setattr(self, method, raising)


class Nonsense(FirstComePolicy):
    """Answers what cannot be compared, or kept in a table."""

    def key(self, sequence: Sequence, now: float) -> Key:
        return None  # type: ignore[return-value]

    def line(self, sequence: Sequence) -> Hashable:
        return []  # type: ignore[return-value]


def run(scheduler: Scheduler) -> None:
    for now in range(200):
        if not run_step(scheduler, now=float(now)).runs:
            return
        scheduler.policy.service()
    raise AssertionError("it does not end")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("calls", [0, 1, 5])
def test_every_request_finishes(method: str, calls: int) -> None:
    scheduler = Scheduler(Capabilities(2, 64), CONFIG, Fragile(method, calls))
    sequences = [
        scheduler.submit(Request(f"{n}", (1, 2, n), 6, priority=priority, tenant=f"{n % 3}"), n)
        for n, priority in enumerate([*Priority, *Priority])
    ]
    run(scheduler)
    assert {sequence.finish_reason for sequence in sequences} == {FinishReason.MAX_TOKENS}
    assert scheduler.policy.failure == "the policy Fragile raised KeyError: 'of its own'"
    assert scheduler.policy.service() == {}
    assert scheduler.idle


def test_who_waited_is_ordered_by_the_default_from_then_on() -> None:
    scheduler = Scheduler(Capabilities(1, 64), CONFIG, Fragile("key", 1))
    running = scheduler.submit(Request("running", (1,), 6, priority=Priority.CRITICAL), 0.0)
    scheduler.schedule(0.0)
    assert running.slot == 0
    for n, priority in enumerate([Priority.LOW, Priority.NORMAL, Priority.HIGH]):
        scheduler.submit(Request(priority.name, (1,), 6, priority=priority), float(n))
    first = scheduler.dispatch.first(5.0)
    assert first is not None
    assert first.request.id == "HIGH"  # of the one line of all, it was the last
    assert scheduler.policy.failure


def test_nonsense_is_as_good_as_raising() -> None:
    scheduler = Scheduler(Capabilities(2, 64), CONFIG, Nonsense(CONFIG))
    sequence = scheduler.submit(Request("a", (1,), 3), 0.0)
    assert scheduler.policy.failure == (
        "the policy Nonsense raised TypeError: unhashable type: 'list'"
    )
    run(scheduler)
    assert sequence.finish_reason is FinishReason.MAX_TOKENS


@pytest.mark.parametrize("key", [7, (math.nan,), ("first",), None])
def test_a_key_that_is_no_tuple_of_numbers(key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = FirstComePolicy(CONFIG)
    monkeypatch.setattr(policy, "key", lambda sequence, now: key)
    scheduler = Scheduler(Capabilities(2, 64), CONFIG, policy)
    sequence = scheduler.submit(Request("a", (1,), 3), 0.0)
    run(scheduler)
    assert sequence.finish_reason is FinishReason.MAX_TOKENS
    assert f"must return a tuple of numbers, not {key!r}" in scheduler.policy.failure


def test_the_default_is_not_guarded() -> None:
    policy = FairPolicy(CONFIG)
    assert Scheduler(Capabilities(1, 64), policy=policy).policy is policy


def test_where_the_default_fails_too_that_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = GuardedPolicy(Fragile("service", 0), CONFIG)
    monkeypatch.setattr(FairPolicy, "service", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        policy.service()
