"""Tenants that both wait get the same: virtual token counters, and the bound of their paper."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from stepping import run_step

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.scripted import ScriptedBackend
from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.events import Begun, Moved, Produced
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.policies.fair import (
    OUTPUT_TOKEN_WEIGHT,
    PROMPT_TOKEN_WEIGHT,
    FairPolicy,
)
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition
from llm_serving_engine.scheduler.step import Capabilities, Step, StepResult
from llm_serving_engine.server.simulator.simulation import Simulation

CONTEXT = 160


@dataclass(frozen=True)
class Arrival:
    at: float
    tenant: str
    prompt: int
    max_tokens: int


arrivals = st.builds(
    Arrival,
    at=st.floats(0, 3),
    tenant=st.sampled_from("ABC"),
    prompt=st.integers(1, 100),
    max_tokens=st.integers(1, 40),
)


class FairnessRun:
    """Watches the service of tenants while both of a pair wait without a pause."""

    def __init__(self, arrivals: list[Arrival], slots: int) -> None:
        config = SchedulerConfig(
            prefix_cache=False, queue_requests_max=10_000, tenant_queue_share=1.0
        )
        self.slots = slots
        backend = ScriptedBackend(
            config=BackendConfig(sequences=slots, context_per_sequence=CONTEXT)
        )
        self.scheduler = Scheduler(backend.report.capabilities, config)
        self.simulation = Simulation(self.scheduler, self._executing(backend))
        self.service: dict[str, float] = defaultdict(float)
        self.since: dict[tuple[str, str], tuple[float, float]] = {}
        self.worst = 0.0
        self._seen = 0
        for number, arrival in enumerate(arrivals):
            request = Request(
                str(number),
                tuple(random.Random(number).randrange(256) for _ in range(arrival.prompt)),
                arrival.max_tokens,
                tenant=arrival.tenant,
            )
            self.simulation.submit_at(arrival.at, request)
        self.simulation.run()

    def _executing(self, backend: ScriptedBackend) -> Callable[[Step], StepResult]:
        def execute(step: Step) -> StepResult:
            self._watch()
            return backend.execute(step)

        return execute

    def _watch(self) -> None:
        """Before each step: who has been served, who waits, and how far apart they are."""
        events, self._seen = self.simulation.events[self._seen :], len(self.simulation.events)
        for _, event in events:
            tenant = event.sequence.request.tenant
            if isinstance(event, Produced):
                self.service[tenant] += OUTPUT_TOKEN_WEIGHT
            elif isinstance(event, Begun):
                pass
            elif event.transition.event is Event.ADMIT:
                self.service[tenant] += PROMPT_TOKEN_WEIGHT * len(event.sequence.request.prompt)
        waiting = set(self.scheduler.queue.tenants)
        for a in "ABC":
            for b in "ABC":
                if a < b and {a, b} <= waiting:
                    start = self.since.setdefault((a, b), (self.service[a], self.service[b]))
                    apart = (self.service[a] - start[0]) - (self.service[b] - start[1])
                    self.worst = max(self.worst, abs(apart))
                else:
                    self.since.pop((a, b), None)

    @property
    def bound(self) -> float:
        """2 max(w_p L, w_q M): L the longest prompt, M the tokens that a full batch holds."""
        return 2 * max(PROMPT_TOKEN_WEIGHT * 100, OUTPUT_TOKEN_WEIGHT * self.slots * (100 + 40))


@settings(max_examples=200)
@given(st.lists(arrivals, max_size=60), st.integers(1, 4))
def test_two_tenants_that_both_wait_get_the_same_up_to_the_papers_bound(
    arrivals: list[Arrival], slots: int
) -> None:
    run = FairnessRun(arrivals, slots)
    assert run.worst <= run.bound


def test_ten_times_the_requests_do_not_get_ten_times_the_service() -> None:
    arrivals = [Arrival(0.0, "A", 50, 20)] * 200 + [Arrival(0.0, "B", 50, 20)] * 20
    run = FairnessRun(arrivals, slots=4)
    assert run.worst <= run.bound
    last_of_b = max(at for at, e in run.simulation.events if e.sequence.request.tenant == "B")
    served_a = sum(
        1
        for at, e in run.simulation.events
        if isinstance(e, Moved)
        and e.transition.state is State.FINISHED
        and e.sequence.request.tenant == "A"
        and at <= last_of_b
    )
    assert 16 <= served_a <= 28  # about as many as the 20 of B


def of(tenant: str) -> Sequence:
    return Sequence(Request("", (1,), 1, tenant=tenant), 1, [Transition(State.WAITING, 0.0)])


def counters_of(*tenants: str) -> FairPolicy:
    policy = FairPolicy(SchedulerConfig(), tenants_max=10)
    for tenant in tenants:
        policy.submitted(of(tenant))
    return policy


def test_a_tenant_that_comes_back_is_lifted_to_the_least_active_one() -> None:
    policy = counters_of("busy", "less")
    policy.served(of("busy"), 50, 0)
    policy.served(of("less"), 30, 0)
    policy.submitted(of("new"))
    assert policy.service()["new"] == 30.0


def test_going_idle_does_not_wipe_out_what_was_had() -> None:
    policy = counters_of("greedy", "other")
    policy.served(of("greedy"), 100, 0)
    policy.left(of("greedy"))
    policy.submitted(of("greedy"))
    assert policy.service()["greedy"] == 100.0


@pytest.mark.parametrize("first", ["ahead", "behind"])
def test_after_the_server_was_idle_all_tenants_start_level(first: str) -> None:
    policy = counters_of("ahead", "behind")
    policy.served(of("ahead"), 1000, 0)
    policy.served(of("behind"), 10, 0)
    policy.left(of("ahead"))
    policy.left(of("behind"))
    for tenant in (first, *({"ahead", "behind"} - {first})):
        policy.submitted(of(tenant))
    assert policy.service() == {"ahead": 0.0, "behind": 0.0}


def test_idle_tenants_are_forgotten() -> None:
    policy = counters_of("stays")
    for number in range(1000):
        one = of(str(number))
        policy.submitted(one)
        policy.served(one, 1000 - number, 0)
        policy.left(one)
    assert len(policy._service) <= 11


def test_a_prompt_that_was_not_computed_is_given_back() -> None:
    scheduler = Scheduler(Capabilities(1, 4096))
    cancelled = scheduler.submit(Request("a", tuple(range(100)), 10, tenant="A"), 0.0)
    scheduler.submit(Request("b", (1,), 10, tenant="A"), 0.0)
    scheduler.schedule(0.0)
    assert scheduler.policy.service() == {"A": 100 * PROMPT_TOKEN_WEIGHT}
    scheduler.cancel(cancelled.key, 0.0)
    assert scheduler.policy.service() == {"A": 0.0}


def test_it_is_given_back_while_the_request_waits_again_too() -> None:
    scheduler = Scheduler(Capabilities(1, 4096), SchedulerConfig(snapshot_bytes_max=0))
    prompt = tuple(range(1000))
    preempted = scheduler.submit(Request("a", prompt, 10, tenant="A"), 0.0)
    scheduler.submit(Request("b", (1,), 10, tenant="A", priority=Priority.LOW), 0.0)
    run_step(scheduler)
    scheduler.submit(Request("c", (2,), 10, tenant="C", priority=Priority.HIGH), 0.0)
    run_step(scheduler)
    assert preempted.state is State.WAITING
    scheduler.cancel(preempted.key, 0.0)
    assert scheduler.policy.service()["A"] == 64 * PROMPT_TOKEN_WEIGHT


def test_no_more_is_given_back_than_was_charged() -> None:
    scheduler = Scheduler(Capabilities(1, 4096), SchedulerConfig(snapshot_bytes_max=0))
    cached = tuple(range(1000))
    scheduler.submit(Request("before", cached, 1, tenant="A"), 0.0)
    while not scheduler.idle:
        run_step(scheduler)
    sequence = scheduler.submit(Request("a", (*cached, *range(2000, 2200)), 10, tenant="A"), 0.0)
    scheduler.submit(Request("b", (1,), 10, tenant="A", priority=Priority.LOW), 0.0)
    scheduler.schedule(0.0)
    assert scheduler.policy.service()["A"] == 200 * PROMPT_TOKEN_WEIGHT
    scheduler.runner_lost(0.0, outside=True)  # with the prefix
    scheduler.schedule(0.0)
    scheduler.cancel(sequence.key, 0.0)
    assert scheduler.policy.service()["A"] == 0
