"""What a constant of the scheduler is worth: simulated loads with other values of it.

    PYTHONPATH=tests/fixtures .venv/bin/python tests/benchmarks/scheduler_constants.py \
        planner.STRETCH 1 2 4

Clients send one request after the other, as `bench` does, to 16 slots with the costs of a
small model and of one seven times as slow. For each value it prints tokens/s, the first
token's p50 and p99 in ms, and the longest gap in step targets. For a constant of `admission`
it prints the goodput under overload instead, where outputs take all of `max_tokens` and where
they end early; for cost.FIRST_UNCERTAINTY and cost.DRIFT, by what part calls differ
from what is expected.
"""

from __future__ import annotations

import importlib
import math
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from overload_traces import LARGE_COSTS, capacity, offered, server, steady_goodput

from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.events import Moved, Produced, SchedulerEvent
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.step import Capabilities, RunResult, Shape, Step, StepResult
from llm_serving_engine.server.simulator.costs import DEFAULT_COSTS, Costs
from llm_serving_engine.server.simulator.replay import replay
from llm_serving_engine.server.simulator.replay_settings import ReplaySettings
from llm_serving_engine.server.simulator.simulation import Simulation

# As learned on an AMD EPYC (Zen 5, AVX-512, no AMX), 2 cores, from SmolLM2-135M in Q4_0.
SMALL = Costs(0.0049, 0.0019, 0.0016, 0.006, 0.0006, 0.0007, 0.0001, 0.0000022, 0.00001)
LARGE = Costs._make(c * f for c, f in zip(SMALL, (7, 5, 3, 7, 7, 4, 1, 1.5, 1.5), strict=True))
SLOTS, CHUNK, VOCABULARY = 16, 256, 30_000
SEEDS = (1, 2, 3)
RUNNER = Capabilities(SLOTS, 2048, CHUNK, 2 * CHUNK, joins=True)

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


def long(clients: int, dice: random.Random) -> list[Lane]:
    """Long prompts at once, some of them shorter by a token or two, as under a common prefix."""
    return [[(drawn(dice, 400 - dice.randrange(3)), 100)] for _ in range(clients)]


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


def beside(dice: random.Random) -> list[Lane]:
    """A long prompt beside four streams."""
    streams: list[Lane] = [[(drawn(dice, 30), 400)] for _ in range(4)]
    return [*streams, [(drawn(dice, 10), 40), (drawn(dice, 1200), 20)]]


LOADS: dict[str, Callable[[random.Random], list[Lane]]] = {
    "burst of 64": lambda dice: steady(64, dice, 1),
    "churn of 4": lambda dice: churn(4, dice),
    "churn of 8": lambda dice: churn(8, dice),
    "churn of 12": lambda dice: churn(12, dice),
    "steady of 16": lambda dice: steady(16, dice),
    "long of 16": lambda dice: long(16, dice),
    "chat of 8": lambda dice: chat(8, dice),
    "a prompt of 1,200": beside,
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
    scheduler = Scheduler(ReplaySettings(RUNNER, costs).timed())
    run = Clients(scheduler, answer, costs.model(), lanes=lanes)
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


def goodput(costs: Costs, early: bool) -> str:
    """A line of goodputs, as parts of what clients get that fill the slots with whole outputs."""
    settings, dice, parts = server(costs=costs), random.Random(1), list[float]()
    tokens, requests = capacity(settings, mixed=True)
    for load in (2, 4):
        for deadline in (5.0, 10.0):
            records = offered(load * requests, 120, deadline, mixed=True)
            if early:
                records = [
                    replace(record, output_tokens=dice.randint(1, record.max_tokens))
                    for record in records
                ]
            done = replay(records, "fair", settings)
            parts.append(steady_goodput(done.outcomes, deadline, 120) / tokens)
    return " ".join(f"{part:.2f}" for part in parts)


def unexpected(seed: int) -> list[float]:
    """By what part calls differ from what is expected, ascending.

    The machine's speed drifts and has slow spells, calls vary, and some are held up.
    """
    dice, speed, slow, differences = random.Random(seed), 1.0, 0, list[float]()
    costs = Costs._make(cost * dice.uniform(0.3, 3) for cost in SMALL)
    machine, model = costs.model(), CostModel(ReplaySettings(RUNNER, costs).timed().speeds)
    for number in range(3000):
        if number % 100 == 0:
            rows, context = dice.randint(1, 16), dice.uniform(0.05, 1)
        slow = max(slow - 1, 200 * (dice.random() < 0.001))
        speed = min(max(speed * math.exp(dice.gauss(0, 0.01)), 0.75), 1.33)
        length = dice.choice((32, 64, 128, 256))
        prompt = Shape(1, 1, length, length * dice.random())
        shape = prompt if dice.random() < 0.2 else Shape(1, rows, rows, rows * context)
        seconds = machine.predict(shape) * speed * (1.6 if slow else 1)
        differences.append(abs(model.predict(shape) / seconds - 1))
        held_up = dice.uniform(2, 20) if dice.random() < 0.01 else 1
        model.learn(shape, seconds * math.exp(dice.gauss(0, 0.05)) * held_up)
    return sorted(differences)


def lines(module: str, name: str) -> Iterator[str]:
    """What a constant that is set changes."""
    if name in ("FIRST_UNCERTAINTY", "DRIFT"):
        differences = sorted(one for seed in SEEDS for one in unexpected(seed))
        places = (int(part * len(differences)) for part in (0.5, 0.9))
        yield "half within {:.3f}, nine in ten within {:.3f}".format(
            *(differences[place] for place in places)
        )
    elif module == "admission":
        for model, costs in (("small", DEFAULT_COSTS), ("2.5 times", LARGE_COSTS)):
            for early in (False, True):
                outputs = "some of it" if early else "all of it"
                yield f"{model}, {outputs}: {goodput(costs, early)}"
    else:
        for model, costs in (("small", SMALL), ("large", LARGE)):
            for load, lanes in LOADS.items():
                yield f"{model} {load:19}{figures(costs, lanes)}"


def main() -> None:
    """Print the figures for each value of a constant."""
    module, _, name = sys.argv[1].partition(".")
    changed = importlib.import_module(f"llm_serving_engine.scheduler.{module}")
    for value in map(float, sys.argv[2:]):
        setattr(changed, name, value)
        for line in lines(module, name):
            print(f"{value:g} {line}", flush=True)


if __name__ == "__main__":
    main()
