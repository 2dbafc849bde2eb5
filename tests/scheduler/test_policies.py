from __future__ import annotations

import re

import pytest
from stepping import run_step

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.lifecycle import Event
from llm_serving_engine.scheduler.policies.fair import FairPolicy
from llm_serving_engine.scheduler.policy import POLICIES, Key, Policy, load_policy
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Capabilities


class LastComePolicy(Policy):
    """The latest first: what a policy of one's own looks like."""

    def key(self, sequence: Sequence, now: float) -> Key:
        return (-sequence.arrived_at,)


def served_order(policy: str, requests: list[tuple[float, Request]], **config: float) -> list[str]:
    """In which order requests get the only slot that there is."""
    settings = SchedulerConfig(policy=policy, **config)  # type: ignore[arg-type]
    scheduler = Scheduler(Capabilities(1, 4096), settings)
    holder = scheduler.submit(Request("holder", (9,), 2, priority=Priority.CRITICAL), 0.0)
    scheduler.schedule(0.0)
    sequences = [scheduler.submit(request, at) for at, request in requests]
    scheduler.cancel(holder.key, 10.0)
    scheduler.runner_lost(10.0, outside=True)
    order = []
    while not scheduler.idle:
        run_step(scheduler, now=10.0)
        done = [s.request.id for s in sequences if s.has_run and s.request.id not in order]
        order += done
    return order


REQUESTS = [
    (1.0, Request("long", (1,) * 50, 50)),
    (2.0, Request("short", (2,), 1)),
    (3.0, Request("urgent", (3,) * 9, 9, priority=Priority.CRITICAL)),
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
    assert served_order(policy, REQUESTS) == expected


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unknown", "is neither a policy (fair, first_come, shortest_job) nor MODULE:CLASS"),
        ("unknown:", "is neither a policy"),
        ("no.such.module:Policy", "cannot be loaded: No module named 'no'"),
        ("math:pi", "cannot be loaded: 'float' object is not callable"),
        ("json:dumps", "cannot be loaded: Object of type SchedulerConfig is not JSON"),
        ("json:JSONDecoder", "is not a subclass of llm_serving_engine.scheduler.policy.Policy"),
    ],
)
def test_what_is_no_policy_is_said_so(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name!r} {words}")):
        load_policy(name, SchedulerConfig())


def test_all_named_ones_load() -> None:
    for name in POLICIES:
        assert isinstance(load_policy(name, SchedulerConfig()), Policy)


def test_the_oldest_gets_one_slot_in_eight_and_no_more() -> None:
    """HIGH requests keep coming: LOW ones wait for their age, then get every eighth slot."""
    lows = [(0.0, Request(f"low{n}", (n, 1), 1, priority=Priority.LOW)) for n in range(3)]
    highs = [(1.0, Request(f"high{n}", (n, 2), 1, priority=Priority.HIGH)) for n in range(20)]
    order = served_order("fair", lows + highs, aging_seconds=5)
    assert [order.index(f"low{n}") for n in range(3)] == [0, 8, 16]
    young = served_order("fair", lows + highs, aging_seconds=50)
    assert [young.index(f"low{n}") for n in range(3)] == [20, 21, 22]


def test_age_takes_no_slot_from_what_runs() -> None:
    scheduler = Scheduler(Capabilities(1, 64), SchedulerConfig(aging_seconds=5))
    high = scheduler.submit(Request("high", (1,), 50, priority=Priority.HIGH), 0.0)
    run_step(scheduler)
    scheduler.submit(Request("low", (2,), 50, priority=Priority.LOW), 0.0)
    run_step(scheduler, now=100.0)
    assert high.times(Event.PREEMPT) == 0
    assert high.state.running


def test_age_does_not_stop_a_higher_class_from_taking_a_slot() -> None:
    scheduler = Scheduler(Capabilities(1, 64), SchedulerConfig(aging_seconds=5))
    normal = scheduler.submit(Request("normal", (1,), 50), 0.0)
    run_step(scheduler)
    scheduler.submit(Request("low", (2,), 50, priority=Priority.LOW), 0.0)
    high = scheduler.submit(Request("high", (3,), 50, priority=Priority.HIGH), 99.0)
    run_step(scheduler, now=100.0)
    assert normal.times(Event.PREEMPT) == 1
    assert high.state.running


def test_what_has_run_before_goes_first() -> None:
    scheduler = Scheduler(Capabilities(1, 64))
    earlier = scheduler.submit(Request("earlier", (1,), 50, tenant="A"), 0.0)
    run_step(scheduler)
    # Its tenant has been served, the other one has not; both arrived at one time.
    other = scheduler.submit(Request("other", (2,), 50, tenant="B"), 0.0)
    scheduler.runner_lost(1.0, outside=True)
    run_step(scheduler)
    assert earlier.state.running
    assert not other.state.running


def test_at_most_half_of_the_slots_are_protected() -> None:
    scheduler = Scheduler(Capabilities(4, 64))
    resumed = [scheduler.submit(Request(f"{n}", (n, 1), 50), 0.0) for n in range(4)]
    run_step(scheduler)
    scheduler.runner_lost(0.0, outside=True)
    run_step(scheduler)
    highs = [
        scheduler.submit(Request(f"high{n}", (n, 2), 50, priority=Priority.HIGH), 1.0)
        for n in range(4)
    ]
    for _ in range(3):
        run_step(scheduler)
    assert sum(high.state.running for high in highs) == 2
    assert sum(sequence.times(Event.PREEMPT) for sequence in resumed) == 2


def test_the_tenant_that_was_served_least_goes_first() -> None:
    policy = FairPolicy(SchedulerConfig())
    scheduler = Scheduler(Capabilities(1, 64), policy=policy)
    a = scheduler.submit(Request("a", (1,), 1, tenant="A"), 0.0)
    b = scheduler.submit(Request("b", (1,), 1, tenant="B"), 1.0)
    policy.served(a, prompt_tokens=3, output_tokens=1)  # 3 + 2
    policy.served(b, prompt_tokens=0, output_tokens=2)  # 4
    assert scheduler.dispatch.first(2.0) is b


def test_the_shortest_rest_is_computed_first_until_the_long_one_has_waited_for_it() -> None:
    scheduler = Scheduler(Capabilities(2, 4096))
    document = scheduler.submit(Request("document", tuple(range(3000)), 5), 0.0)
    question = scheduler.submit(Request("question", (1, 2, 3), 5), 0.0)
    step = scheduler.schedule(1.0)
    assert step is not None
    assert step.runs[0].key == question.key
    scheduler = Scheduler(Capabilities(3, 4096), SchedulerConfig(prefix_cache=False))
    document = scheduler.submit(Request("document", tuple(range(3000)), 5), 0.0)
    run_step(scheduler, now=0.0)
    scheduler.submit(Request("question", (1, 2, 3), 5), 60.0)
    assert run_step(scheduler, now=60.0).runs[0].key == document.key
