"""What the scheduler promises, held against whatever load hypothesis can think of.

Every run goes through the real core under virtual time, on the scripted model,
which checks each step against the contract and whose answers are known.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
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
from llm_serving_engine.scheduler.cost import CostModel, Shape
from llm_serving_engine.scheduler.errors import DeadlinePassed, LimitReached, RequestError
from llm_serving_engine.scheduler.events import Begun, Moved, Produced
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Step, StepResult
from llm_serving_engine.server.simulator.simulation import Simulation

CONTEXT = 160
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
            deadline=None if self.lifetime is None else self.at + self.lifetime,
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
    queue_requests_per_tenant_max=st.sampled_from([2, 256]),
    aging_seconds=st.sampled_from([0.2, 120.0]),
    step_target_seconds=st.sampled_from([0.03, 0.2]),
    step_stretch_max=st.sampled_from([1, 4]),
    prompt_stretch_max=st.sampled_from([1.0, 2.0]),
    preemption=st.booleans(),
    preemption_share_tokens=st.integers(1, 10),
    saved_cache_bytes_max=st.sampled_from([0, 100 * CACHE_BYTES_PER_TOKEN, 10**9]),
    prefix_cache=st.booleans(),
    prefix_tokens_min=st.sampled_from([0, 16]),
    compaction=st.booleans(),
    determinism=st.sampled_from(["fast", "batch_invariant"]),
)


class WatchedSimulation(Simulation):
    """Looks, at each refusal, whether there really was no room."""

    def refused(self, request: Request, error: RequestError) -> None:
        super().refused(request, error)
        config, queue = self.scheduler.config, self.scheduler.queue
        tenant = queue.of_tenant(request.tenant)
        if isinstance(error, LimitReached):
            full = {
                "queue.requests": len(queue) >= config.queue_requests_max,
                "queue.tokens": queue.tokens + request.tokens > config.queue_tokens_max,
                "tenant.queue.requests": tenant.requests >= config.queue_requests_per_tenant_max,
            }
            assert full[error.subject]
            assert error.retry_after > 0
            return
        assert isinstance(error, DeadlinePassed)
        assert request.deadline is not None
        remaining = request.deadline - self.now
        alone = self.scheduler.cost.prefill_seconds(len(request.prompt))
        # With a slot idle, only a prompt that is too long by itself is too late.
        assert not self.scheduler.slots.idle() or alone > remaining


class Run:
    """A simulation that looks at every step."""

    def __init__(
        self, requests: list[tuple[Plan, Request]], slots: int, config: SchedulerConfig
    ) -> None:
        self.config = config
        self.backend = ScriptedBackend(
            config=BackendConfig(sequences=slots, context_per_sequence=CONTEXT)
        )
        capabilities = self.backend.report.capabilities._replace(prefill_unit=UNIT)
        self.scheduler = Scheduler(capabilities, config)
        self.simulation = WatchedSimulation(self.scheduler, self._execute)
        for plan, request in requests:
            self.simulation.submit_at(plan.at, request)
            if plan.patience is not None:
                self.simulation.cancel_at(plan.at + plan.patience, request.id)
        self.simulation.run(steps_max=20_000)

    def _execute(self, step: Step) -> StepResult:
        self._check_conservation()
        self._check_memory()
        return self.backend.execute(step)

    def _check_conservation(self) -> None:
        assert not (self.scheduler.slots.idle() and len(self.scheduler.queue))

    def _check_memory(self) -> None:
        assert self.scheduler.preemption.saved_bytes <= self.config.saved_cache_bytes_max

    @property
    def sequences(self) -> list[Sequence]:
        seen = {e.sequence.request.id: e.sequence for _, e in self.simulation.events}
        return list(seen.values())


def check(run: Run, submitted: int) -> None:
    check_each_request_ends_once(run, submitted)
    check_nothing_leaks(run)
    check_output(run)
    check_steps(run)
    check_overtaking(run)
    check_preemption(run)


def check_each_request_ends_once(run: Run, submitted: int) -> None:
    ends = Counter(
        event.sequence.request.id
        for _, event in run.simulation.events
        if isinstance(event, Moved) and event.transition.state.ended
    )
    assert set(ends.values()) <= {1}
    assert len(ends) + len(run.simulation.refusals) == submitted


def check_nothing_leaks(run: Run) -> None:
    scheduler = run.scheduler
    assert scheduler.idle
    assert scheduler.slots.in_use == 0
    assert (len(scheduler.queue), scheduler.queue.tokens) == (0, 0)
    assert scheduler.preemption.saved_tokens == 0
    assert run.backend.saved == {}


def check_output(run: Run) -> None:
    """The same tokens as alone, however often it was preempted, moved, or given a prefix."""
    produced: dict[str, list[int]] = defaultdict(list)
    for _, event in run.simulation.events:
        if isinstance(event, Produced):
            produced[event.sequence.request.id].append(event.token)
        elif isinstance(event, Begun):
            cached = event.sequence.cached_prompt_tokens
            assert 0 <= cached < len(event.sequence.request.prompt)
            assert not produced[event.sequence.request.id]
    for sequence in run.sequences:
        tokens = list(sequence.request.prompt)
        for token in produced[sequence.request.id]:
            assert token == next_token(tokens)
            tokens.append(token)


def check_steps(run: Run) -> None:
    """No step is over its target by more than the smallest chunk, once costs are known."""
    cost = CostModel()
    for record in run.simulation.steps[20:]:
        step = record.step
        if step.prefill_tokens <= UNIT or step.operations:
            continue
        smallest = cost.prefill_seconds(UNIT, CONTEXT)
        rows = Shape.of(step)._replace(prefill=0, prefill_context=0)
        stretch = max(run.config.step_stretch_max, run.config.prompt_stretch_max)
        target = run.config.step_target_seconds * stretch
        most = max(target, cost.predict(rows)) + smallest
        assert record.result.duration <= most * 1.3


def check_overtaking(run: Run) -> None:
    """Nobody who came more than p' - p + 1 ages later gets a slot first."""
    age = run.config.aging_seconds
    waiting: dict[str, Sequence] = {}
    for _, event in run.simulation.events:
        if not isinstance(event, Moved):
            continue
        sequence = event.sequence
        waiting.pop(sequence.request.id, None)
        if event.transition.state is State.WAITING:
            waiting[sequence.request.id] = sequence
        if event.transition.state is State.PREFILL:
            for other in waiting.values():
                classes = sequence.request.priority - other.request.priority
                latest = other.arrived_at + (classes + 1) * age
                assert sequence.arrived_at <= latest + 1e-9


def check_preemption(run: Run) -> None:
    """Slots are taken for a higher class only, and not again before a share was run."""
    for sequence in run.sequences:
        if not run.config.preemption:
            assert sequence.preemptions == 0
    running: dict[str, tuple[Sequence, int]] = {}
    produced: Counter[str] = Counter()
    preempted_before: set[str] = set()
    for _, event in run.simulation.events:
        name = event.sequence.request.id
        if isinstance(event, Produced):
            produced[name] += 1
        elif isinstance(event, Moved):
            state = event.transition.state
            if state is State.PREFILL:
                running[name] = event.sequence, produced[name]
            elif state is State.WAITING and name in running:
                if name in preempted_before:
                    share = produced[name] - running[name][1]
                    assert share >= run.config.preemption_share_tokens
                preempted_before.add(name)
                del running[name]


@settings(max_examples=150, deadline=None)
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
        max_tokens=dice.choice([dice.randint(1, 12)] * 9 + [100]),
        priority=dice.choice(list(Priority)),
        tenant=dice.choice("ABC"),
        salt="",
        lifetime=dice.choice([None, None, dice.uniform(0.01, 5)]),
        patience=dice.choice([None, None, None, dice.uniform(0, 4)]),
    )


@pytest.mark.parametrize("part", range(10))
def test_a_thousand_random_traces_keep_every_promise(part: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(part * 1000, part * 1000 + 1000):
        dice = random.Random(seed)
        config = SchedulerConfig(
            queue_requests_max=dice.choice([3, 256]),
            aging_seconds=dice.choice([0.3, 120.0]),
            step_target_seconds=dice.choice([0.05, 0.2]),
            preemption_share_tokens=dice.randint(1, 8),
            saved_cache_bytes_max=dice.choice([0, 10**9]),
            determinism=dice.choice(["fast", "batch_invariant"]),
        )
        plans = [random_plan(dice, seconds=2.0) for _ in range(dice.randint(1, 9))]
        requests = [(plan, plan.request(number)) for number, plan in enumerate(plans)]
        run = Run(requests, dice.randint(1, 6), config)
        check(run, len(requests))
        tally = run.scheduler.tally
        for what in ("preemptions", "saves", "moves", "prefix_hits"):
            seen[what] += getattr(tally, what)
    # What never happens is not tested.
    assert min(seen.values()) >= 5, seen
