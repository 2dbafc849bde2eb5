"""What a server records is enough to predict it: shown in virtual time, with known costs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.scripted import ScriptedBackend
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.events import Moved, SchedulerEvent
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Shape
from llm_serving_engine.server.simulator.costs import Costs
from llm_serving_engine.server.simulator.recorded import recorded_summary
from llm_serving_engine.server.simulator.replay import replay
from llm_serving_engine.server.simulator.replay_report import Summary, summary
from llm_serving_engine.server.simulator.replay_settings import (
    ReplaySettings,
    read_settings,
    server_path,
)
from llm_serving_engine.server.simulator.simulation import Simulation, StepRecord
from llm_serving_engine.server.simulator.slowdown import EVEN, Slowdown
from llm_serving_engine.server.simulator.trace import TraceRecord, read_trace
from llm_serving_engine.server.simulator.trace_recorder import TraceRecorder

# A machine unlike the one that the simulator takes where it knows nothing.
COSTS = Costs(0.003, 0.004, 0.001, 0.02, 0.005, 0.01, 0.0001, 0.00002, 0.0003)
HANDOVER_SECONDS = 0.004
SLOTS = 8
# A machine that is slower and slower for 20 s, and then as fast as before.
CHANGING = Slowdown(5.0, (0.6, 1.0, 1.4, 2.0))
# By what part a prediction may be off.
WITHIN = 0.1

Arrivals = Callable[["Live"], None]


class NoisyCosts(CostModel):
    """The known costs; a call takes up to a twentieth more or less."""

    def __init__(self) -> None:
        super().__init__()
        self._known, self._dice = COSTS.model(), random.Random(1)
        self.transfers = self._known.transfers

    def predict(self, shape: Shape) -> float:
        return self._known.predict(shape) * self._dice.uniform(0.95, 1.05)


class Live(Simulation):
    """Stands for a server that records what it does."""

    def __init__(self, trace: Path, arrivals: Arrivals, slowdown: Slowdown = EVEN) -> None:
        backend = ScriptedBackend(config=BackendConfig(sequences=SLOTS))
        can = backend.report.capabilities._replace(calls_max=4)
        scheduler = Scheduler(ReplaySettings(can, COSTS).timed())
        super().__init__(
            scheduler,
            backend.execute,
            NoisyCosts(),
            handover=HANDOVER_SECONDS,
            slowdown=slowdown,
        )
        self.dice = random.Random(2)
        self._recorder = TraceRecorder(trace, 10**9, clock=lambda: self.now)
        self.whenever_ended: Callable[[Sequence], None] = lambda sequence: None
        arrivals(self)
        self.run()
        self._recorder.close(scheduler)

    def prompt(self, tokens: int) -> tuple[int, ...]:
        return tuple(self.dice.choices(range(256), k=tokens))

    def heard(self, event: SchedulerEvent) -> None:
        sequence = event.sequence
        if isinstance(event, Moved) and event.transition is sequence.history[-1]:
            self._recorder.transitioned(sequence)
            if sequence.state.ended:
                self.whenever_ended(sequence)

    def stepped(self, record: StepRecord) -> None:
        self._recorder.stepped(record.step, record.result)


def burst(live: Live) -> None:
    """More requests at once than there are slots."""
    for number in range(3 * SLOTS):
        live.submit_at(1.0, Request(f"{number}", live.prompt(90), 40))


def at_random(live: Live) -> None:
    """Requests of all sizes, half of which begin alike."""
    system, at = live.prompt(200), 0.0
    for number in range(60):
        at += live.dice.expovariate(0.3)
        start = system if number % 2 else ()
        prompt = (*start, *live.prompt(live.dice.randint(10, 300)))
        live.submit_at(at, Request(f"{number}", prompt, live.dice.randint(5, 80)))


def conversations(live: Live) -> None:
    """Each turn has all the turns before it, and comes a while after the answer."""

    def next_turn(sequence: Sequence) -> None:
        text = (*sequence.request.prompt, *sequence.output)
        if len(text) < 700:
            request = Request(sequence.request.id, (*text, *live.prompt(100)), 60)
            live.submit_at(live.now + live.dice.uniform(0.5, 3.0), request)

    live.whenever_ended = next_turn
    for number in range(6):
        live.submit_at(number / 2, Request(f"{number}", live.prompt(100), 60))


def replayed(trace: Path, records: list[TraceRecord]) -> Summary:
    found = replay(records, "fair", read_settings(server_path(trace)))
    return summary(found.outcomes, found.makespan)


@pytest.mark.parametrize("arrivals", [burst, at_random, conversations])
@pytest.mark.parametrize("slowdown", [EVEN, CHANGING], ids=["even", "changing"])
def test_a_replay_takes_what_was_recorded(
    tmp_path: Path, arrivals: Arrivals, slowdown: Slowdown
) -> None:
    trace = tmp_path / "trace.jsonl"
    Live(trace, arrivals, slowdown)
    records = read_trace(trace)
    recorded, found = recorded_summary(records), replayed(trace, records)
    assert recorded is not None
    assert found.finished == recorded.finished == len(records)
    assert found.ttft_p50 == pytest.approx(recorded.ttft_p50, rel=WITHIN)
    assert found.ttft_p90 == pytest.approx(recorded.ttft_p90, rel=WITHIN)
    speed = recorded.output_tokens_per_second
    assert found.output_tokens_per_second == pytest.approx(speed, rel=WITHIN)


def test_costs_are_found_again(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    Live(trace, at_random)
    found = read_settings(server_path(trace))
    assert found.handover_seconds == pytest.approx(HANDOVER_SECONDS, rel=0.01)
    asked, known = found.costs.model(), COSTS.model()
    for shape in (Shape(1, 1, 1, 0.2), Shape(1, 6, 6, 1), Shape(2, 6, 6, 1), Shape(1, 1, 64, 8)):
        assert asked.predict(shape) == pytest.approx(known.predict(shape), rel=0.1)


def test_turns_come_later_where_answers_do(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    Live(trace, conversations)
    records, server = read_trace(trace), read_settings(server_path(trace))
    slow = replace(server, costs=Costs._make(3 * seconds for seconds in server.costs))
    found = replay(records, "fair", slow)
    # One request of each conversation runs at most: their number never passes the slots.
    waits = summary(found.outcomes, found.makespan).ttft_p90
    recorded = recorded_summary(records)
    assert recorded is not None
    assert recorded.ttft_p90 is not None
    assert waits is not None
    assert waits < 4 * recorded.ttft_p90
    assert found.makespan > 2 * records[-1].at
