from __future__ import annotations

import pytest
from stepping import answer, ask, new_scheduler, run_step

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import CACHE_LOSSES_MAX, Scheduler
from llm_serving_engine.scheduler.errors import (
    Cancelled,
    DeadlinePassed,
    InvalidField,
    LimitReached,
    RunnerFailed,
    Unavailable,
)
from llm_serving_engine.scheduler.events import Moved, Produced
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.request import FinishReason, Priority, Request, Sampling
from llm_serving_engine.scheduler.step import (
    FOLLOW,
    Capabilities,
    Close,
    Copy,
    Logprobs,
    Open,
    Output,
    RunResult,
    StepResult,
)

END = 9


def test_a_request_goes_from_queue_to_end() -> None:
    scheduler = new_scheduler()
    sequence = scheduler.submit(ask(max_tokens=2), now=1.0)
    assert sequence.cached_prompt_tokens is None
    run_step(scheduler, token=5, now=2.0)
    assert sequence.cached_prompt_tokens == 0
    run_step(scheduler, token=6, now=3.0)
    assert sequence.output == [5, 6]
    assert [(t.state, t.event) for t in sequence.history] == [
        (State.WAITING, Event.SUBMIT),
        (State.PREFILL, Event.ADMIT),
        (State.DECODE, Event.FIRST_TOKEN),
        (State.FINISHED, Event.FINISH),
    ]
    assert sequence.finish_reason is FinishReason.MAX_TOKENS
    assert (sequence.first_token_at, sequence.last_token_at) == (2.0, 3.0)
    assert scheduler.idle
    assert scheduler.schedule(4.0) is None
    # The runner is told to forget it with the next step.
    scheduler.submit(ask("b"), now=5.0)
    assert run_step(scheduler, now=5.0).operations[0] == Close(sequence.key)


def test_events_tell_the_whole_story_in_order() -> None:
    scheduler = new_scheduler()
    scheduler.submit(ask(max_tokens=1), now=0.0)
    run_step(scheduler)
    story = [
        event.transition.state if isinstance(event, Moved) else getattr(event, "token", "begun")
        for event in scheduler.take_events()
    ]
    assert story == [State.WAITING, State.PREFILL, "begun", State.DECODE, 5, State.FINISHED]
    assert scheduler.take_events() == []


def test_an_end_token_ends_the_output_and_is_no_part_of_it() -> None:
    scheduler = new_scheduler()
    sequence = scheduler.submit(ask(stop_tokens=frozenset({END})), now=0.0)
    run_step(scheduler, token=5)
    run_step(scheduler, token=END)
    assert sequence.output == [5]
    assert sequence.finish_reason is FinishReason.END_OF_SEQUENCE


def test_a_full_context_ends_the_output() -> None:
    scheduler = new_scheduler(context=8)
    sequence = scheduler.submit(ask(prompt=6, max_tokens=100), now=0.0)
    while not scheduler.idle:
        run_step(scheduler)
    assert len(sequence.output) == 2
    assert sequence.finish_reason is FinishReason.CONTEXT_LENGTH


def test_finish_cuts_the_output_and_drops_what_is_in_flight() -> None:
    scheduler = new_scheduler()
    sequence = scheduler.submit(ask(), now=0.0)
    run_step(scheduler, token=5)
    run_step(scheduler, token=6)
    step = scheduler.schedule(1.0)
    assert step is not None
    scheduler.finish(sequence.key, 1.0, output_tokens=1)
    scheduler.apply(answer(step, token=7), 2.0)
    assert sequence.output == [5]
    assert sequence.finish_reason is FinishReason.STOP_SEQUENCE
    assert scheduler.cache.in_use == 0


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_cancel_in_every_state_frees_the_slot(steps: int) -> None:
    scheduler = new_scheduler(slots=1, chunk=2, determinism="batch_invariant")
    sequence = scheduler.submit(ask(), now=0.0)
    for _ in range(steps):
        run_step(scheduler)
    states = [State.WAITING, State.PREFILL, State.DECODE]
    assert sequence.state is states[steps]
    scheduler.cancel(sequence.key, 1.0)
    assert sequence.state is State.CANCELLED
    assert isinstance(sequence.error, Cancelled)
    assert scheduler.cache.in_use == 0
    assert len(scheduler.queue) == 0
    scheduler.cancel(sequence.key, 2.0)  # once more changes nothing
    assert len(sequence.history) == steps + 2


def test_requests_of_one_id_are_apart() -> None:
    scheduler = new_scheduler()
    first, second = (scheduler.submit(ask("same"), now=0.0) for _ in range(2))
    scheduler.cancel(first.key, 0.0)
    run_step(scheduler)
    scheduler.cancel(first.key, 1.0)
    assert (first.state, second.state) == (State.CANCELLED, State.DECODE)


def test_a_slot_freed_in_flight_goes_to_the_next_and_not_the_result() -> None:
    scheduler = new_scheduler(slots=1)
    first = scheduler.submit(ask("a"), now=0.0)
    waiting = scheduler.submit(ask("b"), now=0.0)
    step = scheduler.schedule(0.0)
    assert step is not None
    scheduler.cancel(first.key, 0.5)
    scheduler.apply(answer(step), 1.0)
    assert waiting.output == []
    following = run_step(scheduler, token=6)
    assert [(run.key, run.slot) for run in following.runs] == [(waiting.key, 0)]
    assert waiting.output == [6]


@pytest.mark.parametrize(
    ("steps", "reason"), [(0, "QUEUE_TIMEOUT"), (1, "RUNNING_TIMEOUT"), (2, "RUNNING_TIMEOUT")]
)
def test_a_deadline_passes_in_every_state(steps: int, reason: str) -> None:
    scheduler = new_scheduler(slots=1, chunk=2, determinism="batch_invariant")
    sequence = scheduler.submit(ask(deadline=10.0), now=0.0)
    for _ in range(steps):
        run_step(scheduler, now=9.0)
    step = scheduler.schedule(10.0)
    assert step is None or not step.runs
    assert sequence.state is State.EXPIRED
    assert isinstance(sequence.error, DeadlinePassed)
    assert sequence.error.reason == reason


def test_a_deadline_that_has_passed_is_refused() -> None:
    with pytest.raises(DeadlinePassed) as raised:
        new_scheduler().submit(ask(deadline=1.0), now=1.0)
    assert raised.value.reason == "DEADLINE_UNREACHABLE"


def test_cancel_after_the_deadline_is_an_expiry() -> None:
    scheduler = new_scheduler()
    late = scheduler.submit(ask("late", deadline=1.0), now=0.0)
    told = scheduler.submit(ask("told", deadline=9.0), now=0.0)
    scheduler.cancel(late.key, 1.5)
    scheduler.cancel(told.key, 1.5, expired=True)
    assert late.state is told.state is State.EXPIRED


def test_cancel_with_an_error_fails() -> None:
    scheduler = new_scheduler()
    sequence = scheduler.submit(ask(), now=0.0)
    error = Unavailable("going down")
    scheduler.cancel(sequence.key, 1.0, error=error)
    assert (sequence.state, sequence.error) == (State.FAILED, error)


def test_the_queue_is_bounded_in_requests() -> None:
    scheduler = new_scheduler(queue_requests_max=2, tenant_queue_share=1.0)
    for name in "ab":
        scheduler.submit(ask(name), now=0.0)
    with pytest.raises(LimitReached) as raised:
        scheduler.submit(ask("c"), now=0.0)
    assert raised.value.subject == "queue.requests"
    assert raised.value.retry_after > 0
    scheduler.schedule(0.0)
    scheduler.submit(ask("c"), now=0.0)


def test_the_queue_is_bounded_in_tokens() -> None:
    scheduler = new_scheduler(queue_tokens_max=14, tenant_queue_share=1.0)
    scheduler.submit(ask("a", prompt=3, max_tokens=4), now=0.0)
    with pytest.raises(LimitReached) as raised:
        scheduler.submit(ask("b", prompt=4, max_tokens=4, tenant="t"), now=0.0)
    assert raised.value.subject == "queue.tokens"
    scheduler.submit(ask("b", prompt=3, max_tokens=4), now=0.0)


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    scheduler = new_scheduler(context=8)
    with pytest.raises(InvalidField, match="8 tokens leave no room in the context of 8"):
        scheduler.submit(ask(prompt=8), now=0.0)
    scheduler.submit(ask(prompt=7), now=0.0)


def test_two_steps_at_a_time_and_their_results_in_order() -> None:
    scheduler = new_scheduler()
    sequence = scheduler.submit(ask(), now=0.0)
    first, second = scheduler.schedule(0.0), scheduler.schedule(0.0)
    assert first is not None
    assert second is not None
    # The second goes on from the token that the first draws.
    assert second.runs[0].tokens == (FOLLOW,)
    assert second.runs[0].start == 3
    assert scheduler.schedule(0.0) is None
    with pytest.raises(RuntimeError, match="not the oldest"):
        scheduler.apply(answer(second), 0.0)
    scheduler.apply(answer(first, token=5), 0.0)
    scheduler.apply(answer(second, token=6), 0.0)
    assert sequence.output == [5, 6]
    with pytest.raises(RuntimeError, match="not the oldest"):
        scheduler.apply(StepResult(second.number + 1), 0.0)


def test_no_row_follows_the_last_token() -> None:
    scheduler = new_scheduler()
    scheduler.submit(ask(max_tokens=1), now=0.0)
    assert scheduler.schedule(0.0) is not None
    assert scheduler.schedule(0.0) is None


def test_a_newcomer_recalls_the_queued_step_and_goes_first() -> None:
    scheduler = new_scheduler(slots=1, context=4000)
    running = scheduler.submit(ask("low", max_tokens=100, priority=Priority.LOW), now=0.0)
    run_step(scheduler)
    first, second = scheduler.schedule(0.0), scheduler.schedule(0.0)
    assert first is not None
    assert second is not None
    assert scheduler.recall(0.0) is None  # nobody waits
    urgent = scheduler.submit(ask("high", prompt=9, priority=Priority.HIGH), now=0.1)
    assert scheduler.recall(0.1) == second.number
    assert scheduler.recall(0.1) is None  # once is enough
    assert scheduler.schedule(0.1) is None  # not before it is known what became of it
    scheduler.apply(answer(first), 0.2)
    scheduler.apply(StepResult(second.number, recalled=True), 0.2)
    third = scheduler.schedule(0.2)
    assert third is not None
    assert [run.key for run in third.runs] == [urgent.key]
    assert running.state is State.WAITING
    assert running.output == [5, 5]


def test_a_step_of_a_higher_class_is_not_recalled() -> None:
    scheduler = new_scheduler(slots=2)
    scheduler.submit(ask("high", max_tokens=20, priority=Priority.HIGH), now=0.0)
    run_step(scheduler)
    scheduler.schedule(0.0)
    scheduler.schedule(0.0)
    scheduler.submit(ask("normal"), now=0.1)
    assert scheduler.recall(0.1) is None


def test_operations_of_a_recalled_step_are_done_by_the_next() -> None:
    scheduler = new_scheduler(slots=3, context=4000)
    scheduler.submit(ask("a", max_tokens=100), now=0.0)
    run_step(scheduler)
    first = scheduler.schedule(0.0)
    b = scheduler.submit(ask("b", prompt=40), now=0.0)
    second = scheduler.schedule(0.0)
    assert first is not None
    assert second is not None
    assert any(isinstance(operation, Open) for operation in second.operations)
    c = scheduler.submit(ask("c", prompt=8), now=0.1)
    assert scheduler.recall(0.1) == second.number
    scheduler.apply(answer(first), 0.2)
    scheduler.apply(StepResult(second.number, recalled=True), 0.2)
    third = scheduler.schedule(0.2)
    assert third is not None
    opened = [o.key for o in third.operations if isinstance(o, Open)]
    assert opened == [b.key, c.key]


def test_a_run_that_failed_fails_its_request_alone() -> None:
    scheduler = new_scheduler()
    a, b = (scheduler.submit(ask(name), now=0.0) for name in "ab")
    run_step(scheduler)
    run_step(scheduler)
    step = scheduler.schedule(0.0)
    assert step is not None
    outcomes = (RunResult(a.key, 0, error="no room"), RunResult(b.key, 1, (5,)))
    scheduler.apply(StepResult(step.number, runs=outcomes), 1.0)
    assert isinstance(a.error, RunnerFailed)
    assert b.output
    assert scheduler.cache.in_use == 1
    assert scheduler.cache.slots[0].length == 0


def test_a_cache_that_cannot_be_copied_is_computed() -> None:
    scheduler = new_scheduler(slots=3, context=1000)
    scheduler.submit(ask("a", prompt=500, max_tokens=50), now=0.0)
    while not run_step(scheduler).rows:
        pass
    copied = scheduler.submit(ask("as a", prompt=400, max_tokens=2), now=0.0)
    step = scheduler.schedule(0.0)
    assert step is not None
    (index,) = (i for i, o in enumerate(step.operations) if isinstance(o, Copy))
    refused = tuple(
        RunResult(run.key, 0) if run.key == copied.key else RunResult(run.key, 1, (5,))
        for run in step.runs
    )
    scheduler.apply(StepResult(step.number, runs=refused, failed=(index,)), 0.0)
    assert copied.cache_losses == 1
    while not scheduler.idle:
        run_step(scheduler)
    assert copied.state is State.FINISHED
    assert copied.cached_prompt_tokens == 0


def test_a_run_that_is_refused_again_and_again_fails() -> None:
    scheduler = new_scheduler()
    sequence = scheduler.submit(ask(), now=0.0)
    for _ in range(CACHE_LOSSES_MAX + 1):
        assert sequence.state is not State.FAILED
        step = scheduler.schedule(0.0)
        assert step is not None
        scheduler.apply(StepResult(step.number, runs=(RunResult(sequence.key, 0),)), 0.0)
    assert isinstance(sequence.error, RunnerFailed)


def test_a_lost_runner_sends_all_back_before_their_class() -> None:
    scheduler = new_scheduler(slots=2, runner_losses_max=5)
    a, b, c = (scheduler.submit(ask(name), now=float(i)) for i, name in enumerate("abc"))
    run_step(scheduler, token=5, now=3.0)
    run_step(scheduler, token=5, now=3.0)
    scheduler.schedule(4.0)
    scheduler.schedule(4.0)
    scheduler.runner_lost(5.0, outside=True)
    assert not scheduler.cache.flights
    assert [s.history[-1].event for s in (a, b)] == [Event.LOSE] * 2
    step = scheduler.schedule(6.0)
    assert step is not None
    opened = {o.key: o.output for o in step.operations if isinstance(o, Open)}
    assert opened == {a.key: tuple(a.output), b.key: tuple(b.output)}
    assert c.state is State.WAITING
    assert a.first_token_at == 3.0


def test_rows_stand_in_the_order_of_slots() -> None:
    capabilities = Capabilities(4, 100, copy=False)
    scheduler = Scheduler(capabilities, SchedulerConfig())
    sequences = [scheduler.submit(ask(name, max_tokens=50), now=0.0) for name in "abcd"]
    while len(run_step(scheduler).runs) < 4:
        pass
    scheduler.cancel(sequences[1].key, 0.0)
    assert [run.slot for run in run_step(scheduler).runs] == [0, 2, 3]


def test_penalties_need_the_prompt_and_nothing_else_does() -> None:
    scheduler = new_scheduler()
    scheduler.submit(ask("plain"), now=0.0)
    penalised = ask("x", sampling=Sampling(presence_penalty=1.0))
    scheduler.submit(penalised, now=0.0)
    opens = [o for o in run_step(scheduler).operations if isinstance(o, Open)]
    assert [opened.prompt for opened in opens] == [(), penalised.prompt]


def test_logprobs_pass_through() -> None:
    scheduler = new_scheduler()
    sequence = scheduler.submit(ask(top_logprobs=2), now=0.0)
    step = scheduler.schedule(0.0)
    assert step is not None
    assert next(o.top_logprobs for o in step.operations if isinstance(o, Open)) == 2
    assert step.runs[0].output == Output.SAMPLE | Output.LOGPROBS
    logprobs = Logprobs(-0.5, ((5, -0.5), (6, -1.0)))
    outcome = RunResult(sequence.key, 3, (5,), (logprobs,))
    scheduler.apply(StepResult(step.number, runs=(outcome,)), 0.0)
    produced = [e for e in scheduler.take_events() if isinstance(e, Produced)]
    assert [(event.token, event.logprobs) for event in produced] == [(5, logprobs)]


@pytest.mark.parametrize(
    ("rollback", "waits"), [(None, True), (100, True), (99, False), (0, False)]
)
def test_nobody_waits_for_a_prefix_that_cannot_be_cut_off(
    rollback: int | None, waits: bool
) -> None:
    scheduler = Scheduler(Capabilities(2, 2048, rollback=rollback))
    common = tuple(range(1000))
    scheduler.submit(Request("a", (*common, *range(2000, 2100)), 5), now=0.0)
    run_step(scheduler)
    other = scheduler.submit(Request("b", (*common, *range(3000, 3100)), 5), now=0.0)
    run_step(scheduler)
    assert (other.slot is None) == waits
