"""No stream waits longer than twice the step target, preemption aside."""

from __future__ import annotations

import random
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.events import Produced, SchedulerEvent
from llm_serving_engine.scheduler.lifecycle import Event
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Capabilities, RunResult, Shape, Step, StepResult
from llm_serving_engine.server.simulator.costs import DEFAULT_COSTS, Costs
from llm_serving_engine.server.simulator.simulation import RunnerDied, Simulation, VirtualRunner

COST = DEFAULT_COSTS.model()
# What passes between two calls, and what some rows take beside what is expected of them,
# as seen in a burst of 64 requests.
SECONDS_BETWEEN, SLOW_ROWS = 0.003, (1.0, 1.0, 1.0, 1.1, 1.35)
CONTEXT = 1024


class UnevenRunner(VirtualRunner):
    """Some calls take longer than others like them, and each begins a little late."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.dice = random.Random(1)

    def _do(self, step: Step) -> StepResult | RunnerDied:
        outcome = super()._do(step)
        if isinstance(outcome, StepResult) and not outcome.recalled:
            factor = self.dice.choice(SLOW_ROWS) if step.rows else self.dice.uniform(0.95, 1.1)
            outcome = outcome._replace(seconds=factor * outcome.seconds)
            self._seconds = factor * self._seconds + SECONDS_BETWEEN
        return outcome


class Gaps(Simulation):
    """Keeps the longest time between two tokens of a stream that kept its slot meanwhile."""

    longest = 0.0

    def heard(self, event: SchedulerEvent) -> None:
        sequence = event.sequence
        if isinstance(event, Produced):
            before = self.last.get(sequence.key, self.now)
            if not moved(sequence, before):
                self.longest = max(self.longest, self.now - before)
            self.last[sequence.key] = self.now

    def __post_init__(self) -> None:
        super().__post_init__()
        self.last: dict[int, float] = {}


def moved(sequence: Sequence, since: float) -> bool:
    """Whether a sequence lost its slot, or got one."""
    changes = (t for t in sequence.history if t.at >= since)
    return any(change.event in (Event.PREEMPT, Event.ADMIT) for change in changes)


def answer(step: Step) -> StepResult:
    runs = (RunResult(r.key, len(r.tokens), (1,) if r.output else ()) for r in step.runs)
    return StepResult(step.number, runs=tuple(runs))


@pytest.mark.parametrize("seed", range(3))
def test_a_burst_keeps_the_promise_although_calls_are_uneven(seed: int) -> None:
    shapes = [Shape(1, rows, rows, rows / 4) for rows in (1, 16)]
    shapes += [Shape(1, 1, tokens, tokens**2 / 2000) for tokens in (32, 64, 128)]
    speeds = tuple((shape, COST.predict(shape)) for shape in shapes)
    can = Capabilities(
        16, 2048, chunk=64, call_tokens_max=256, joins=True, calls_max=8, speeds=speeds
    )
    simulation = Gaps(Scheduler(can), answer, COST)
    simulation.runner = UnevenRunner(answer, COST)
    dice = random.Random(seed)
    for number in range(48):
        prompt = tuple(dice.randrange(30_000) for _ in range(90))
        simulation.submit_at(0.0, Request(f"r{number}", prompt, 40))
    simulation.run()
    assert simulation.longest <= 2 * simulation.scheduler.step_target


@dataclass(frozen=True)
class Ask:
    """A request of a load."""

    at: float
    shared: int  # tokens that prompts have in common
    own: int
    max_tokens: int
    priority: Priority

    def request(self, number: int) -> Request:
        common, own = random.Random(0), random.Random(number + 1)
        prompt = [common.randrange(30_000) for _ in range(self.shared)]
        prompt += [own.randrange(30_000) for _ in range(self.own)]
        return Request(f"r{number}", tuple(prompt), self.max_tokens, priority=self.priority)


asks = st.builds(
    Ask,
    at=st.floats(0, 3),
    shared=st.sampled_from([0, 0, 40, 300]),
    own=st.integers(1, 60) | st.integers(1, 600),
    max_tokens=st.integers(1, 60),
    priority=st.sampled_from([Priority.LOW, Priority.NORMAL, Priority.NORMAL, Priority.HIGH]),
)
# Of a small model on two cores, and of other models and machines.
costs = st.tuples(*(st.floats(0.5 * cost, 2 * cost) for cost in DEFAULT_COSTS)).map(Costs._make)
runners = st.tuples(st.integers(2, 12), st.sampled_from([64, 128, 256]), st.booleans()).map(
    lambda drawn: runner(*drawn)
)


def runner(slots: int, chunk: int, joins: bool) -> Capabilities:
    return Capabilities(
        slots, CONTEXT, chunk, joins=joins, snapshots=True, token_bytes=23_040, calls_max=8
    )


def exact(can: Capabilities, costs: Costs, targets: float) -> Scheduler:
    """A scheduler that knows what everything takes.

    Args:
        can: Its runner.
        costs: What everything takes.
        targets: The step target, in the least one: rows in all slots, none beside another one,
            and a chunk of 32 tokens, with as much context as there is.
    """
    cost = costs.model()
    rows = Shape(can.slots, can.slots, can.slots, can.slots * CONTEXT / 1000)
    target = targets * (cost.predict(rows) + cost.chunk_seconds(32, CONTEXT))
    scheduler = Scheduler(can, SchedulerConfig(step_target_seconds=target, delivery_seconds=target))
    scheduler.cost.rows.weights[:] = cost.rows.weights
    scheduler.cost.chunks.weights[:] = cost.chunks.weights
    scheduler.cost.transfers.weights[:] = cost.transfers.weights
    return scheduler


@settings(max_examples=100)
@given(st.lists(asks, min_size=2, max_size=14), runners, costs, st.floats(1, 3), st.floats(1, 1.15))
def test_no_gap_of_any_load_is_longer_where_rows_and_a_short_chunk_fit_the_target(
    load: list[Ask], can: Capabilities, costs: Costs, targets: float, slower: float
) -> None:
    scheduler = exact(can, costs, targets)
    simulation = Gaps(scheduler, answer, Costs._make(slower * c for c in costs).model())
    # Each call takes longer than was expected of it, which is not learned.
    scheduler.cost.learn = lambda shape, seconds: None  # type: ignore[method-assign]
    for number, ask in enumerate(load):
        simulation.submit_at(ask.at, ask.request(number))
    simulation.run()
    assert simulation.longest <= 2 * scheduler.step_target
