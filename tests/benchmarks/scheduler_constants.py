"""What a constant of the scheduler is worth: simulated loads with other values of it.

    python tests/benchmarks/scheduler_constants.py cache.REUSE_CHANCE 0.2 0.5 1.0

Clients send one request after the other, as `bench` does, to 16 slots with the costs of a
small model and of one seven times as slow. For each value it prints tokens/s, the first
token's p50 and p99 in ms, and the longest gap in step targets.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.events import Moved, Produced, SchedulerEvent
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.step import Capabilities, RunResult, Shape, Step, StepResult
from llm_serving_engine.server.simulator.costs import Costs
from llm_serving_engine.server.simulator.simulation import Simulation

# As learned on an AMD EPYC (Zen 5, AVX-512, no AMX), 2 cores, from SmolLM2-135M in Q4_0.
SMALL = Costs(0.0049, 0.0019, 0.0016, 0.006, 0.0006, 0.0007, 0.006, 0.0001)
LARGE = Costs._make(c * f for c, f in zip(SMALL, (7, 5, 3, 7, 7, 4, 3, 3), strict=True))
SLOTS, CHUNK, VOCABULARY = 16, 256, 30_000
SEEDS = (1, 2, 3)

Lane = list[tuple[tuple[int, ...], int]]
"""The prompts and lengths of output that one client asks for, one after the other."""


def drawn(dice: random.Random, tokens: int) -> tuple[int, ...]:
    """Tokens at random."""
    return tuple(dice.randrange(VOCABULARY) for _ in range(tokens))


def churn(clients: int, dice: random.Random) -> list[Lane]:
    """Prompts and answers of all lengths."""

    def length(mean: int) -> int:
        return max(1, round(mean * dice.uniform(0.125, 1.875)))

    return [[(drawn(dice, length(90)), length(64)) for _ in range(6)] for _ in range(clients)]


def steady(clients: int, dice: random.Random, each: int = 6) -> list[Lane]:
    """Prompts and answers of one length."""
    return [[(drawn(dice, 90), 64) for _ in range(each)] for _ in range(clients)]


def long_prompts(clients: int, dice: random.Random) -> list[Lane]:
    """All at once."""
    return [[(drawn(dice, 403), 100)] for _ in range(clients)]


def chat(clients: int, dice: random.Random) -> list[Lane]:
    """Conversations that grow."""
    lanes: list[Lane] = []
    for _ in range(clients):
        prompt, lane = drawn(dice, 100), Lane()
        for _ in range(8):
            lane.append((prompt, 40))
            prompt += (1,) * 40 + drawn(dice, 70)
        lanes.append(lane)
    return lanes


LOADS: dict[str, Callable[[random.Random], list[Lane]]] = {
    "burst of 64": lambda dice: steady(64, dice, 1),
    "churn of 4": lambda dice: churn(4, dice),
    "churn of 8": lambda dice: churn(8, dice),
    "churn of 12": lambda dice: churn(12, dice),
    "steady of 16": lambda dice: steady(16, dice),
    "long of 16": lambda dice: long_prompts(16, dice),
    "chat of 8": lambda dice: chat(8, dice),
    "chat of 12": lambda dice: chat(12, dice),
}


@dataclass
class Clients(Simulation):
    """Clients that send their next request when the one before has ended."""

    lanes: list[Lane] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    last: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for number in range(len(self.lanes)):
            self.send(number)

    def send(self, number: int) -> None:
        """Send a client's next request, if it has one."""
        if self.lanes[number]:
            prompt, max_tokens = self.lanes[number].pop(0)
            self.submit_at(self.now, Request(str(number), prompt, max_tokens))

    def heard(self, event: SchedulerEvent) -> None:
        """Keep when tokens came, and go on."""
        sequence = event.sequence
        if isinstance(event, Produced):
            last = self.last.get(sequence.key)
            if last is None:
                self.waits.append(self.now - sequence.arrived_at)
            else:
                self.gaps.append(self.now - last)
            self.last[sequence.key] = self.now
        elif isinstance(event, Moved) and event.transition.state.ended:
            self.send(int(sequence.request.id))


def answer(step: Step) -> StepResult:
    """What a runner says that draws the token 1 each time."""
    runs = (RunResult(r.key, len(r.tokens), (1,) if r.output else ()) for r in step.runs)
    return StepResult(step.number, runs=tuple(runs))


def simulated(costs: Costs, lanes: list[Lane]) -> Clients:
    """The end of a simulation."""
    cost = costs.model()
    shapes = [Shape(1, rows, rows, rows / 4) for rows in (1, SLOTS)]
    shapes += [Shape(1, 1, tokens, tokens**2 / 2000) for tokens in (32, 64, 128)]
    speeds = tuple((shape, cost.predict(shape)) for shape in shapes)
    can = Capabilities(SLOTS, 2048, CHUNK, 2 * CHUNK, joins=True, speeds=speeds)
    run = Clients(Scheduler(can), answer, cost, lanes=lanes)
    run.run()
    return run


def figures(costs: Costs, load: Callable[[random.Random], list[Lane]]) -> str:
    """A line of figures."""
    runs = [simulated(costs, load(random.Random(seed))) for seed in SEEDS]
    speed = sum(len(r.gaps) + len(r.waits) for r in runs) / sum(r.now for r in runs)
    waits = sorted(wait for run in runs for wait in run.waits)
    p50, p99 = (1000 * waits[int(part * (len(waits) - 1))] for part in (0.5, 0.99))
    gap = max(max(r.gaps) / r.scheduler.step_target for r in runs)
    return f"{speed:7.1f} tokens/s, first token {p50:6.0f} and {p99:6.0f} ms, gap {gap:.2f} T"


def main() -> None:
    """Print the figures for each value of a constant."""
    module, _, name = sys.argv[1].partition(".")
    changed = importlib.import_module(f"llm_serving_engine.scheduler.{module}")
    for value in map(float, sys.argv[2:]):
        setattr(changed, name, type(getattr(changed, name))(value))
        for model, costs in (("small", SMALL), ("large", LARGE)):
            for load, lanes in LOADS.items():
                print(f"{value:g} {model} {load:13}{figures(costs, lanes)}", flush=True)


if __name__ == "__main__":
    main()
