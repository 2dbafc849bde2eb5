"""The request that kills its runner is found, and nobody else pays with more than a wait."""

from __future__ import annotations

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from stepping import answer, run_step

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.scripted import ScriptedBackend, next_token
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.errors import RequestFailed
from llm_serving_engine.scheduler.events import Moved
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.request import FinishReason, Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Capabilities, RunResult, Step, StepResult
from llm_serving_engine.scheduler.step import Run as StepRun
from llm_serving_engine.scheduler.suspects import PROOF_TOKENS, Suspects
from llm_serving_engine.server.simulator.simulation import RunnerDied, Simulation

MARK = 255
CONTEXT = 120


def test_no_request_is_suspected_at_first() -> None:
    suspects = Suspects(1)
    assert not suspects
    assert suspects.suspected == []
    suspects.progressed(1, 100)
    suspects.left(1)


def test_all_that_ran_at_a_loss_are_tried_in_order() -> None:
    suspects = Suspects(1)
    assert suspects.lost({1: 0, 2: 7}) == ()
    assert suspects.suspected == [1, 2]
    suspects.progressed(1, PROOF_TOKENS - 1)
    assert suspects.suspected[0] == 1
    suspects.progressed(1, PROOF_TOKENS)
    assert suspects.suspected[0] == 2
    suspects.progressed(2, 7 + PROOF_TOKENS - 1)
    assert suspects.suspected[0] == 2
    suspects.progressed(2, 7 + PROOF_TOKENS)
    assert not suspects


def test_two_losses_alone_convict() -> None:
    suspects = Suspects(1)
    suspects.lost({1: 0, 2: 7})
    assert suspects.lost({1: 0}) == ()
    assert suspects.suspected[0] == 1
    assert suspects.lost({1: 0}) == (1,)
    assert suspects.suspected[0] == 2


def test_a_request_that_ran_alone_is_tried_before_those_that_ran_together() -> None:
    suspects = Suspects(1)
    suspects.lost({1: 0, 2: 0, 3: 0})
    suspects.progressed(1, PROOF_TOKENS)
    suspects.lost({2: 0})
    suspects.lost({3: 0})
    assert suspects.suspected[0] == 2


def test_progress_between_two_losses_alone_clears() -> None:
    suspects = Suspects(1)
    for output_tokens in range(0, 50, PROOF_TOKENS):
        assert suspects.lost({1: output_tokens}) == ()
        suspects.progressed(1, output_tokens + PROOF_TOKENS)


def test_requests_that_ran_together_are_suspected_from_the_configured_number_of_losses_on() -> None:
    suspects = Suspects(3)
    suspects.lost({1: 0, 2: 0})
    suspects.lost({1: 0, 3: 0})
    assert not suspects
    suspects.lost({1: 0, 4: 0})
    assert suspects.suspected == [1]
    assert suspects.lost({5: 0}) == ()
    assert suspects.suspected == [5, 1]  # it was alone


def test_who_has_left_is_forgotten() -> None:
    suspects = Suspects(1)
    suspects.lost({1: 0, 2: 0})
    suspects.left(1)
    assert suspects.suspected[0] == 2
    suspects.left(2)
    assert not suspects


def test_the_core_tries_those_that_ran_one_at_a_time() -> None:
    scheduler = Scheduler(Capabilities(4, 32))
    a, b = (scheduler.submit(Request(str(n), (n, 2, 3), 9), 0.0) for n in range(2))
    run_step(scheduler)
    run_step(scheduler)
    scheduler.schedule(1.0)
    scheduler.submit(Request("c", (9, 2, 3), 9), 1.0)
    scheduler.runner_lost(1.0)
    for suspect in (a, a, b, b):
        step = scheduler.schedule(2.0)
        assert step is not None
        assert list(scheduler.cache.holders()) == [suspect]
        assert scheduler.schedule(2.0) is None
        scheduler.apply(answer(step), 2.0)
    run_step(scheduler, now=3.0)
    assert scheduler.cache.in_use == 3


class Died(Exception):
    """The runner's process would have died."""


class PoisonedBackend(ScriptedBackend):
    """Dies where a sequence that begins with MARK gets as long as its second token says."""

    def _compute(self, run: StepRun) -> RunResult:
        result = super()._compute(run)
        cache = self.caches[run.slot]
        if cache[0] == MARK and len(cache) > 1 and len(cache) >= cache[1]:
            raise Died
        return result


class Run:
    """A simulation of requests, some of which kill their runner.

    Attributes:
        blamed: How often the runner died of a request.
        company: For each of those losses, how many requests held a slot.
    """

    def __init__(
        self, requests: list[tuple[float, Request]], slots: int, outside: frozenset[int]
    ) -> None:
        self.slots, self.outside = slots, outside
        self.blamed, self.company = 0, list[int]()
        self.backend = self._new_backend()
        self.scheduler = Scheduler(self.backend.report.capabilities)
        self.simulation = Simulation(self.scheduler, self._execute)
        self._begun = 0
        for at, request in requests:
            self.simulation.submit_at(at, request)
        self.simulation.run()
        self.sequences: dict[str, Sequence] = {
            event.sequence.request.id: event.sequence for _, event in self.simulation.events
        }

    def _new_backend(self) -> ScriptedBackend:
        return PoisonedBackend(
            config=BackendConfig(sequences=self.slots, context_per_sequence=CONTEXT)
        )

    def _execute(self, step: Step) -> StepResult:
        self._begun += 1
        if self._begun in self.outside:
            self.backend = self._new_backend()
            self.simulation.outside = True
            raise RunnerDied
        try:
            return self.backend.execute(step)
        except Died:
            self.blamed += 1
            self.company.append(self.scheduler.cache.in_use)
            self.backend = self._new_backend()
            self.simulation.outside = False
            raise RunnerDied from None


def innocent(name: str, length: int, max_tokens: int, priority: Priority) -> Request:
    prompt = tuple(name.encode()) + (7,) * length
    return Request(name, prompt, max_tokens, priority=priority)


def poison(name: str, length: int, max_tokens: int, priority: Priority) -> Request:
    prompt = (MARK, length, *name.encode())
    return Request(name, prompt, max_tokens, priority=priority)


arrivals = st.tuples(
    st.floats(0, 3), st.integers(1, 60), st.integers(1, 40), st.sampled_from(Priority)
)


@settings(max_examples=80)
@given(
    st.lists(arrivals, max_size=12),
    st.lists(arrivals, max_size=3),
    st.integers(1, 5),
    st.frozensets(st.integers(1, 80), max_size=20),
)
def test_only_poison_is_refused(
    good: list[tuple[float, int, int, Priority]],
    bad: list[tuple[float, int, int, Priority]],
    slots: int,
    outside: frozenset[int],
) -> None:
    requests = [(plan[0], innocent(f"good{n}", *plan[1:])) for n, plan in enumerate(good)]
    requests += [(plan[0], poison(f"bad{n}", *plan[1:])) for n, plan in enumerate(bad)]
    run = Run(requests, slots, outside)
    assert run.scheduler.idle
    assert not run.scheduler.suspects
    assert len(run.sequences) == len(requests)
    convicted = 0
    for name, sequence in run.sequences.items():
        request = sequence.request
        # What it would take in at most: the last token of output is not computed any more.
        fatal = name.startswith("bad") and request.prompt[1] < request.tokens
        convicted += fatal
        if fatal:
            assert isinstance(sequence.error, RequestFailed)
            assert sequence.error.reason == RequestFailed.KILLS_RUNNER
        else:
            assert sequence.finish_reason is FinishReason.MAX_TOKENS
            assert len(sequence.output) == request.max_tokens
        tokens = list(request.prompt)
        for token in sequence.output:
            assert token == next_token(tokens)
            tokens.append(token)
    # Each is convicted within three deaths: one in company, and two alone.
    assert run.blamed <= 3 * convicted
    assert run.company.count(1) >= 2 * convicted


def test_a_poison_among_sixteen_streams() -> None:
    dice = random.Random(5)
    lengths = [dice.randint(1, 40) for _ in range(15)]
    requests = [
        (0.0, innocent(f"good{n}", length, 60, Priority.NORMAL)) for n, length in enumerate(lengths)
    ]
    requests.append((0.0, poison("bad", 40, 60, Priority.NORMAL)))
    run = Run(requests, 16, frozenset())
    assert run.company == [16, 1, 1]
    states = {name: sequence.state for name, sequence in run.sequences.items()}
    assert states.pop("bad") is State.FAILED
    assert set(states.values()) == {State.FINISHED}
    assert {sequence.times(Event.LOSE) for name, sequence in run.sequences.items()} == {1, 3}


def test_a_newcomer_waits_for_the_trials_whatever_its_class() -> None:
    requests = [(0.0, innocent(f"good{n}", 5, 30, Priority.NORMAL)) for n in range(3)]
    requests.append((0.0, poison("bad", 20, 30, Priority.NORMAL)))
    requests.append((1.0, innocent("late", 5, 30, Priority.CRITICAL)))
    run = Run(requests, 4, frozenset())
    assert run.company == [4, 1, 1]
    moves = [event for _, event in run.simulation.events if isinstance(event, Moved)]
    refused = next(n for n, event in enumerate(moves) if event.transition.state is State.FAILED)
    begins = next(
        n
        for n, event in enumerate(moves)
        if event.sequence.request.id == "late" and event.transition.state is State.PREFILL
    )
    assert refused < begins


@pytest.mark.parametrize("priority", Priority)
def test_a_loss_from_outside_makes_no_suspects(priority: Priority) -> None:
    requests = [(0.0, innocent(f"good{n}", 5, 30, priority)) for n in range(4)]
    run = Run(requests, 4, frozenset(range(2, 200, 3)))
    assert {sequence.state for sequence in run.sequences.values()} == {State.FINISHED}
    assert max(sequence.times(Event.LOSE) for sequence in run.sequences.values()) > 10
