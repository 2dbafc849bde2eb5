"""No stream waits longer than twice the step target, preemption aside."""

from __future__ import annotations

import random

import pytest

from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.events import Produced, SchedulerEvent
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.step import Capabilities, RunResult, Shape, Step, StepResult
from llm_serving_engine.server.simulator.costs import DEFAULT_COSTS
from llm_serving_engine.server.simulator.simulation import RunnerDied, Simulation, VirtualRunner

COST = DEFAULT_COSTS.model()
# What passes between two calls, and what some rows take beside what is expected of them,
# as seen in a burst of 64 requests.
SECONDS_BETWEEN, SLOW_ROWS = 0.003, (1.0, 1.0, 1.0, 1.1, 1.35)


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
    """Keeps the longest time between two tokens of a stream."""

    longest = 0.0

    def heard(self, event: SchedulerEvent) -> None:
        sequence = event.sequence
        if isinstance(event, Produced):
            before = self.last.get(sequence.key, self.now)
            self.longest = max(self.longest, self.now - before)
            self.last[sequence.key] = self.now

    def __post_init__(self) -> None:
        super().__post_init__()
        self.last: dict[int, float] = {}
        self.runner = UnevenRunner(self.runner.execute, self.cost)


def answer(step: Step) -> StepResult:
    runs = (RunResult(r.key, len(r.tokens), (1,) if r.output else ()) for r in step.runs)
    return StepResult(step.number, runs=tuple(runs))


@pytest.mark.parametrize("seed", range(3))
def test_a_burst_keeps_the_promise_although_calls_are_uneven(seed: int) -> None:
    shapes = [Shape(1, rows, rows, rows / 4) for rows in (1, 16)]
    shapes += [Shape(1, 1, tokens, tokens**2 / 2000) for tokens in (32, 64, 128)]
    speeds = tuple((shape, COST.predict(shape)) for shape in shapes)
    can = Capabilities(16, 2048, chunk=64, call_tokens_max=256, joins=True, speeds=speeds)
    simulation = Gaps(Scheduler(can), answer, COST)
    dice = random.Random(seed)
    for number in range(48):
        prompt = tuple(dice.randrange(30_000) for _ in range(90))
        simulation.submit_at(0.0, Request(f"r{number}", prompt, 40))
    simulation.run()
    assert simulation.longest <= 2 * simulation.scheduler.step_target
