from __future__ import annotations

import pytest

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.policies.fair import FairPolicy
from llm_serving_engine.scheduler.policy import POLICIES, Key, Policy, load_policy
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Capabilities


class LastComePolicy(Policy):
    """The latest first: what a policy of one's own looks like."""

    def key(self, sequence: Sequence, now: float) -> Key:
        return (-sequence.arrived_at,)


def order(policy: str, requests: list[tuple[float, Request]], now: float = 10.0) -> list[str]:
    scheduler = Scheduler(Capabilities(1, 4096), SchedulerConfig(policy=policy, aging_seconds=10))
    for at, request in requests:
        scheduler.submit(request, at)
    key = scheduler.policy.key
    return [s.request.id for s in sorted(scheduler.queue, key=lambda s: key(s, now))]


REQUESTS = [
    (1.0, Request("long", (1,) * 50, 50)),
    (2.0, Request("short", (1,), 1)),
    (3.0, Request("urgent", (1,) * 9, 9, priority=Priority.CRITICAL)),
]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("fair", ["urgent", "long", "short"]),
        ("first_come", ["long", "short", "urgent"]),
        ("shortest_job", ["short", "urgent", "long"]),
        (f"{__name__}:LastComePolicy", ["urgent", "short", "long"]),
    ],
)
def test_the_order_of_each(policy: str, expected: list[str]) -> None:
    assert order(policy, REQUESTS) == expected


@pytest.mark.parametrize("name", ["unknown", "no.such.module:Policy", "json:dumps", "math:pi"])
def test_what_is_no_policy_is_said_so(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}"):
        load_policy(name, SchedulerConfig())


def test_all_named_ones_load() -> None:
    for name in POLICIES:
        assert isinstance(load_policy(name, SchedulerConfig()), Policy)


def test_age_raises_a_class_at_a_time() -> None:
    low = (0.0, Request("low", (1,), 1, priority=Priority.LOW))
    normal = (19.0, Request("normal", (1,), 1))
    assert order("fair", [low, normal], now=19.5) == ["low", "normal"]  # both at level 2
    later = (19.0, Request("high", (1,), 1, priority=Priority.HIGH))
    assert order("fair", [low, later], now=19.5) == ["high", "low"]
    assert order("fair", [low, later], now=28.9) == ["low", "high"]  # 3 and 3: who came first


def test_age_protects_from_preemption() -> None:
    policy = FairPolicy(SchedulerConfig(aging_seconds=10))
    scheduler = Scheduler(Capabilities(1, 64), policy=policy)
    old = scheduler.submit(Request("old", (1,), 1, priority=Priority.LOW), 0.0)
    high = scheduler.submit(Request("high", (1,), 1, priority=Priority.HIGH), 19.0)
    assert policy.preempts(high, old, 19.0)
    assert not policy.preempts(high, old, 20.0)
    assert not policy.preempts(old, high, 100.0)


def test_the_tenant_that_was_served_least_goes_first() -> None:
    policy = FairPolicy(SchedulerConfig())
    scheduler = Scheduler(Capabilities(1, 64), policy=policy)
    a = scheduler.submit(Request("a", (1,), 1, tenant="A"), 0.0)
    b = scheduler.submit(Request("b", (1,), 1, tenant="B"), 1.0)
    policy.served(a, prompt_tokens=3, output_tokens=1)  # 3 + 2
    policy.served(b, prompt_tokens=0, output_tokens=2)  # 4
    assert scheduler.queue.first(2.0) is b


def test_in_a_tenant_the_shortest_rest_is_computed_first() -> None:
    policy = FairPolicy(SchedulerConfig())
    scheduler = Scheduler(Capabilities(2, 4096), policy=policy)
    scheduler.submit(Request("document", tuple(range(3000)), 5), 0.0)
    scheduler.submit(Request("question", (1, 2, 3), 5), 0.0)
    step = scheduler.schedule(1.0)
    assert next(chunk.slot for chunk in step.prefills) == 1
