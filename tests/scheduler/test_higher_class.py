"""A short prompt of a class above all others waits at most one step target for its first token."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import pytest

from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.events import Moved, Produced, SchedulerEvent
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.step import Capabilities, RunResult, Step, StepResult
from llm_serving_engine.server.simulator.costs import Costs
from llm_serving_engine.server.simulator.replay_settings import ReplaySettings
from llm_serving_engine.server.simulator.simulation import Simulation

# The built-in model on two cores, and one of 1B parameters.
BUILT_IN = Costs(0.0049, 0.0019, 0.0016, 0.006, 0.0012, 0.0007, 0.001, 0.00001, 0.00003)
LARGE = Costs(0.034, 0.0095, 0.0048, 0.042, 0.0042, 0.0028, 0.005, 0.00005, 0.0001)
SLOTS, OVERLOAD, HIGH_REQUESTS, HIGH_TOKENS = 16, 4, 25, 60


def answer(step: Step) -> StepResult:
    runs = (RunResult(r.key, len(r.tokens), (1,) if r.output else ()) for r in step.runs)
    return StepResult(step.number, runs=tuple(runs))


@dataclass
class Clients(Simulation):
    """LOW clients that send one request after the other, and a HIGH one that pauses between.

    Attributes:
        low_tokens: The least and the most tokens of a LOW prompt.
        dice: Draws prompts and pauses.
        waits: From a HIGH request to its first token, the first request aside: no
            chunk before it was planned with a higher class in mind.
    """

    low_tokens: tuple[int, int] = (1, 1)
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    waits: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._numbers = itertools.count()

    def send(self, at: float, priority: Priority, tokens: int, max_tokens: int) -> None:
        prompt = tuple(self.dice.randrange(30_000) for _ in range(tokens))
        name = f"r{next(self._numbers)}"
        self.submit_at(at, Request(name, prompt, max_tokens, priority=priority))

    def low(self) -> None:
        self.send(self.now, Priority.LOW, self.dice.randint(*self.low_tokens), 64)

    def high(self) -> None:
        self.send(self.now + self.dice.uniform(0.05, 0.4), Priority.HIGH, HIGH_TOKENS, 8)

    def heard(self, event: SchedulerEvent) -> None:
        sequence = event.sequence
        high = sequence.request.priority is Priority.HIGH
        if high and isinstance(event, Produced) and len(sequence.output) == 1:
            self.waits.append(self.now - sequence.arrived_at)
        ended = isinstance(event, Moved) and event.transition.state.ended
        if ended and len(self.waits) <= HIGH_REQUESTS:
            self.high() if high else self.low()


@pytest.mark.parametrize("low_tokens", [(90, 90), (30, 150), (900, 900)])
@pytest.mark.parametrize("costs", [BUILT_IN, LARGE])
def test_high_waits_for_a_step_target_more_than_alone_under_four_times_the_load(
    costs: Costs, low_tokens: tuple[int, int]
) -> None:
    can = Capabilities(
        SLOTS, 2048, 128, 256, joins=True, snapshots=True, token_bytes=23_040, calls_max=8
    )
    scheduler = Scheduler(ReplaySettings(can, costs).timed())
    clients = Clients(scheduler, answer, costs.model(), low_tokens=low_tokens)
    for _ in range(OVERLOAD * SLOTS):
        clients.low()
    clients.now = 1.0
    clients.high()
    clients.now = 0.0
    clients.run()
    alone = clients.cost.chunk_seconds(HIGH_TOKENS, 0)
    added = [wait - alone for wait in clients.waits[1:]]
    assert len(added) == HIGH_REQUESTS
    assert scheduler.totals.preemptions >= HIGH_REQUESTS / 2
    # That anything waits at all shows that they came at all times.
    assert 0.3 * scheduler.step_target < max(added) <= scheduler.step_target
