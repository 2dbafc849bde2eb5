"""Steps that are sent before the one before them is done change nothing but the time."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.scripted import ScriptedBackend
from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import Priority, Request, Sampling
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import FOLLOW, DecodeRow, SampledToken, Step, StepResult

SLOTS = 3
GREEDY = Sampling(temperature=0.0)


def ask(name: str, max_tokens: int = 6, stop: int | None = None, **more: object) -> Request:
    stops = frozenset() if stop is None else frozenset({stop})
    prompt = tuple(name.encode())
    return Request(name, prompt, max_tokens, sampling=GREEDY, stop_tokens=stops, **more)  # type: ignore[arg-type]


class Driven:
    """A scheduler and a scripted runner, with steps sent ahead or not."""

    def __init__(self, *, ahead: bool, config: SchedulerConfig | None = None) -> None:
        self.backend = ScriptedBackend(config=BackendConfig(sequences=SLOTS))
        self.scheduler = Scheduler(self.backend.report.capabilities, config)
        self.sent: deque[Step] = deque()
        self.ahead = ahead
        self.steps_ahead = 0
        self.now = 0.0
        self._last = StepResult(0)

    def turn(self) -> bool:
        """Send what there is to send, and have the first of it done; False where there is none."""
        self.now += 1.0
        if not self.sent:
            step = self.scheduler.schedule(self.now)
            if step.empty:
                return False
            self.sent.append(step)
        if self.ahead and (following := self.scheduler.schedule_ahead(self.now)) is not None:
            self.sent.append(following)
            self.steps_ahead += 1
        # As a worker does it; the backend holds every step against the contract.
        self._last = self.backend.execute(self.sent.popleft().following(self._last))
        self.scheduler.apply(self._last._replace(duration=0.001), self.now)
        return True

    def run(self) -> None:
        while self.turn():
            pass


def test_one_that_decodes_goes_on() -> None:
    driven = Driven(ahead=True)
    sequence = driven.scheduler.submit(ask("a", max_tokens=6), 0.0)
    driven.turn()
    assert driven.scheduler.schedule_ahead(1.0) is None  # nothing is under way
    step = driven.scheduler.schedule(1.0)
    ahead = driven.scheduler.schedule_ahead(1.0)
    assert ahead is not None
    assert ahead.number == step.number + 1
    assert ahead.decodes == (DecodeRow(0, step.decodes[0].position + 1, FOLLOW),)
    assert driven.scheduler.schedule_ahead(1.0) is None  # one is enough
    assert sequence.state is State.DECODE


def test_not_over_what_may_change() -> None:
    driven = Driven(ahead=True)
    scheduler = driven.scheduler
    scheduler.submit(ask("a", max_tokens=3), 0.0)
    scheduler.schedule(0.0)
    assert scheduler.schedule_ahead(0.0) is None  # a prompt is under way
    scheduler.apply(StepResult(1, (SampledToken(0, 5),)), 0.0)
    scheduler.schedule(0.0)
    scheduler.submit(ask("b"), 0.0)
    assert scheduler.schedule_ahead(0.0) is None  # "b" gets a slot in the next step
    scheduler.cancel("b", 0.0)
    assert scheduler.schedule_ahead(0.0) is not None
    scheduler.apply(StepResult(2, (SampledToken(0, 5),)), 0.0)
    assert scheduler.schedule_ahead(0.0) is None  # "a" ends with the step under way


def test_never_where_steps_are_long() -> None:
    driven = Driven(ahead=True, config=SchedulerConfig(ahead_step_seconds_max=0))
    driven.scheduler.submit(ask("a", max_tokens=9), 0.0)
    driven.run()
    assert driven.steps_ahead == 0
    # What was not sent has no number: nine steps and an empty one went before.
    driven.scheduler.submit(ask("b"), driven.now)
    assert driven.scheduler.schedule(driven.now).number == 11


def test_a_row_for_nothing() -> None:
    whole = Driven(ahead=False)
    expected = whole.scheduler.submit(ask("abc", max_tokens=8), 0.0)
    whole.run()
    driven = Driven(ahead=True)
    stop = expected.output[3]
    ended = driven.scheduler.submit(ask("abc", max_tokens=8, stop=stop), 0.0)
    driven.run()
    assert ended.output == expected.output[: expected.output.index(stop)]
    assert driven.steps_ahead
    # What the slot holds of it is what its next holder thinks it is.
    again = driven.scheduler.submit(ask("abc", max_tokens=8), driven.now)
    driven.run()
    assert again.output == expected.output


def test_a_lost_runner_loses_both_steps() -> None:
    driven = Driven(ahead=True)
    sequence = driven.scheduler.submit(ask("a", max_tokens=9), 0.0)
    driven.turn()
    driven.turn()
    assert driven.sent
    driven.scheduler.runner_lost(driven.now)
    driven.backend = ScriptedBackend(config=BackendConfig(sequences=SLOTS))
    driven.sent.clear()
    driven.run()
    alone = Driven(ahead=False)
    expected = alone.scheduler.submit(ask("a", max_tokens=9), 0.0)
    alone.run()
    assert sequence.output == expected.output


def test_a_deadline_ends_it_between_steps() -> None:
    driven = Driven(ahead=True)
    sequence = driven.scheduler.submit(ask("a", max_tokens=100, deadline=10.5), 0.0)
    driven.run()
    assert sequence.state is State.EXPIRED
    assert driven.now < 15
    assert 5 < len(sequence.output) < 12


def test_rows_without_a_token_are_left_out() -> None:
    step = Step(2, decodes=(DecodeRow(0, 4, FOLLOW), DecodeRow(1, 5, FOLLOW), DecodeRow(2, 6, 9)))
    followed = step.following(StepResult(1, (SampledToken(1, 7),)))
    assert followed.decodes == (DecodeRow(1, 5, 7), DecodeRow(2, 6, 9))


@st.composite
def plans(draw: st.DrawFn) -> list[tuple[int, Request, int | None]]:
    """When each comes, what it asks, and when it is cancelled."""
    count = draw(st.integers(1, 8))
    found = []
    for number in range(count):
        request = ask(
            f"{draw(st.sampled_from(['', 'common beginning ']))}{number}",
            draw(st.integers(1, 12)),
            draw(st.none() | st.integers(0, 255)),
            priority=draw(st.sampled_from(Priority)),
        )
        at = draw(st.integers(0, 20))
        found.append((at, request, draw(st.none() | st.integers(at, at + 20))))
    return found


def outcomes(plan: list[tuple[int, Request, int | None]], *, ahead: bool) -> list[Sequence]:
    driven = Driven(ahead=ahead)
    sequences = []
    for turn in range(60):
        for at, request, cancelled in plan:
            if at == turn:
                sequences.append(driven.scheduler.submit(request, driven.now))
            if cancelled == turn:
                driven.scheduler.cancel(request.id, driven.now)
        driven.turn()
    driven.run()
    return sequences


@pytest.mark.parametrize("ahead", [True, False])
@given(plan=plans())
def test_everybody_gets_what_it_would_get_alone(
    ahead: bool, plan: list[tuple[int, Request, int | None]]
) -> None:
    alone = {}
    for _, request, _ in plan:
        driven = Driven(ahead=False)
        alone[request.id] = driven.scheduler.submit(request, 0.0)
        driven.run()
    for sequence in outcomes(plan, ahead=ahead):
        expected = alone[sequence.request.id]
        assert sequence.state.ended
        if sequence.state is State.FINISHED:
            assert sequence.output == expected.output
        else:
            assert sequence.output == expected.output[: len(sequence.output)]
