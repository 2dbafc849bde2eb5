"""What the scheduler promises, held against whatever load hypothesis can think of.

Every run goes through the real core under virtual time, on the scripted model,
which checks each step against the contract and whose answers are known. PROMISE_TRACES
sets how many random traces there are.
"""

from __future__ import annotations

import math
import os
import random
from collections import Counter, defaultdict
from dataclasses import dataclass

import hypothesis.strategies as st
import invariants
import pytest
from dispatch_watch import DispatchWatch
from hypothesis import given, settings

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.scripted import (
    CACHE_BYTES_PER_TOKEN,
    END_OF_SEQUENCE,
    ScriptedBackend,
    next_token,
)
from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.errors import DeadlinePassed, LimitReached, RequestError
from llm_serving_engine.scheduler.events import Begun, Moved, Produced
from llm_serving_engine.scheduler.lifecycle import Event
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Step, StepResult
from llm_serving_engine.server.simulator.simulation import Simulation

CONTEXT = 160
TRACES = int(os.environ.get("PROMISE_TRACES", "2400"))
PARTS = 4
UNIT = 8


@dataclass(frozen=True)
class Plan:
    """One request and what its caller does."""

    at: float
    group: int  # prompts of a group begin alike
    prefix: int  # tokens that they have in common
    rest: tuple[int, ...]
    max_tokens: int
    priority: Priority
    tenant: str
    salt: str
    lifetime: float | None
    patience: float | None

    def prompt(self) -> tuple[int, ...]:
        dice = random.Random(self.group)
        return tuple(dice.randrange(256) for _ in range(self.prefix)) + self.rest

    def request(self, number: int) -> Request:
        return Request(
            f"r{number}",
            self.prompt(),
            self.max_tokens,
            stop_tokens=frozenset({END_OF_SEQUENCE}),
            priority=self.priority,
            tenant=self.tenant,
            cache_salt=self.salt,
            deadline=math.inf if self.lifetime is None else self.at + self.lifetime,
        )


plans = st.builds(
    Plan,
    at=st.floats(0, 4),
    group=st.integers(0, 1),
    prefix=st.sampled_from([0, 20, 64, 100]),
    rest=st.lists(st.integers(0, 255), min_size=1, max_size=40).map(tuple),
    max_tokens=st.integers(1, 30),
    priority=st.sampled_from(Priority),
    tenant=st.sampled_from("AB"),
    salt=st.sampled_from(["", "", "s"]),
    lifetime=st.none() | st.floats(0.001, 3),
    patience=st.none() | st.floats(0, 3),
)

configs = st.builds(
    SchedulerConfig,
    queue_requests_max=st.sampled_from([3, 256]),
    queue_tokens_max=st.sampled_from([300, 1_000_000]),
    tenant_queue_share=st.sampled_from([0.5, 1.0]),
    aging_seconds=st.sampled_from([0.2, 120.0]),
    step_target_seconds=st.sampled_from([None, 0.03, 0.2]),
    snapshot_bytes_max=st.sampled_from([0, 100 * CACHE_BYTES_PER_TOKEN, 10**9]),
    prefix_cache=st.booleans(),
    determinism=st.sampled_from(["fast", "batch_invariant"]),
)


class WatchedSimulation(Simulation):
    """Looks, at each refusal, whether there really was no room."""

    def refused(self, request: Request, error: RequestError) -> None:
        super().refused(request, error)
        config, queue = self.scheduler.config, self.scheduler.queue
        tenant, share = queue.of_tenant(request.tenant), config.tenant_queue_share
        if isinstance(error, LimitReached):
            full = {
                "queue.requests": len(queue) >= config.queue_requests_max,
                "queue.tokens": queue.load.tokens + request.tokens > config.queue_tokens_max,
                "tenant.queue.requests": tenant.requests >= int(share * config.queue_requests_max),
                "tenant.queue.tokens": tenant.tokens + request.tokens
                > share * config.queue_tokens_max,
            }
            assert full[error.subject]
            assert error.retry_after > 0
            return
        assert isinstance(error, DeadlinePassed)
        assert error.retry_after is None or error.retry_after > 0


class Run:
    """A simulation that looks at everything after every call."""

    def __init__(
        self, requests: list[tuple[Plan, Request]], slots: int, config: SchedulerConfig
    ) -> None:
        self.config = config
        self.backend = ScriptedBackend(
            config=BackendConfig(sequences=slots, context_per_sequence=CONTEXT, prefill_chunk=UNIT)
        )
        self.scheduler = Scheduler(self.backend.report.capabilities, config)
        self.watch = DispatchWatch(self.scheduler)
        self.simulation = WatchedSimulation(self.scheduler, self._execute)
        for plan, request in requests:
            self.simulation.submit_at(plan.at, request)
            if plan.patience is not None:
                self.simulation.cancel_at(plan.at + plan.patience, request.id)
        self.simulation.run(steps_max=20_000)

    def _execute(self, step: Step) -> StepResult:
        invariants.check(self.scheduler)
        return self.backend.execute(step)

    @property
    def sequences(self) -> list[Sequence]:
        seen = {e.sequence.key: e.sequence for _, e in self.simulation.events}
        return list(seen.values())


def check(run: Run, submitted: int) -> None:
    check_each_request_ends_once(run, submitted)
    invariants.check_end(run.scheduler)
    check_output(run)
    check_preemption(run)


def check_each_request_ends_once(run: Run, submitted: int) -> None:
    ends = Counter(
        event.sequence.request.id
        for _, event in run.simulation.events
        if isinstance(event, Moved) and event.transition.state.ended
    )
    assert set(ends.values()) <= {1}
    assert len(ends) + len(run.simulation.refusals) == submitted
    # What was taken in is not refused any more.
    errors = [s.error for s in run.sequences if isinstance(s.error, DeadlinePassed)]
    assert DeadlinePassed.DEADLINE_UNREACHABLE not in {error.reason for error in errors}


def check_output(run: Run) -> None:
    """The same tokens as alone, however often it was preempted, moved, or given a prefix."""
    produced: dict[str, list[int]] = defaultdict(list)
    for _, event in run.simulation.events:
        if isinstance(event, Produced):
            produced[event.sequence.request.id].append(event.token)
        elif isinstance(event, Begun):
            cached = event.sequence.cached_prompt_tokens
            assert cached is not None
            assert 0 <= cached < len(event.sequence.request.prompt)
            assert not produced[event.sequence.request.id]
    for sequence in run.sequences:
        tokens = list(sequence.request.prompt)
        for token in produced[sequence.request.id]:
            assert token == next_token(tokens)
            tokens.append(token)


def check_preemption(run: Run) -> None:
    """Slots are taken for a higher class only, and what is protected keeps its own."""
    produced: Counter[int] = Counter()
    for _, event in run.simulation.events:
        sequence = event.sequence
        if isinstance(event, Produced):
            produced[sequence.key] += 1
        elif isinstance(event, Moved) and event.transition.event is Event.PREEMPT:
            assert sequence.request.priority < max(Priority)
    for sequence in run.sequences:
        if sequence.request.priority is Priority.CRITICAL:
            assert sequence.times(Event.PREEMPT) == 0


@settings(max_examples=150)
@given(st.lists(plans, max_size=25), st.integers(1, 5), configs)
def test_any_load_under_any_configuration(
    plans: list[Plan], slots: int, config: SchedulerConfig
) -> None:
    requests = [(plan, plan.request(number)) for number, plan in enumerate(plans)]
    check(Run(requests, slots, config), len(requests))


def random_plan(dice: random.Random, seconds: float) -> Plan:
    return Plan(
        at=dice.uniform(0, seconds),
        group=dice.randrange(3),
        prefix=dice.choice([0, 16, 50, 100]),
        rest=tuple(dice.randrange(256) for _ in range(dice.randint(1, 30))),
        max_tokens=dice.choice([dice.randint(1, 12)] * 9 + [50]),
        priority=dice.choice(list(Priority)),
        tenant=dice.choice("ABC"),
        salt="",
        lifetime=dice.choice([None, None, dice.uniform(0.01, 5)]),
        patience=dice.choice([None, None, None, dice.uniform(0, 4)]),
    )


@pytest.mark.parametrize("part", range(PARTS))
def test_random_traces_keep_every_promise(part: int) -> None:
    seen: Counter[str] = Counter()
    each = TRACES // PARTS
    for seed in range(part * each, (part + 1) * each):
        dice = random.Random(seed)
        config = SchedulerConfig(
            queue_requests_max=dice.choice([3, 256]),
            aging_seconds=dice.choice([0.3, 120.0]),
            step_target_seconds=dice.choice([0.05, 0.2]),
            snapshot_bytes_max=dice.choice([0, 10**9]),
            determinism=dice.choice(["fast", "batch_invariant"]),
        )
        plans = [random_plan(dice, seconds=2.0) for _ in range(dice.randint(1, 9))]
        requests = [(plan, plan.request(number)) for number, plan in enumerate(plans)]
        run = Run(requests, dice.randint(1, 6), config)
        check(run, len(requests))
        totals = run.scheduler.totals
        for what in ("preemptions", "saves", "moves", "prefix_hits"):
            seen[what] += getattr(totals, what)
        seen["aged"] += run.watch.aged
        seen["kept back"] += run.watch.kept_back
    # What never happens is not tested.
    assert min(seen.values()) >= 5, seen
