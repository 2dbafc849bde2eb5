from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.errors import (
    Cancelled,
    DeadlinePassed,
    InvalidField,
    LimitReached,
    RunnerFailed,
    Unavailable,
)
from llm_serving_engine.scheduler.events import Moved, Produced
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import FinishReason, Priority, Request, Sampling
from llm_serving_engine.scheduler.step import (
    Capabilities,
    SampledToken,
    SlotFailure,
    Step,
    StepResult,
)

END = 9


def new_scheduler(slots: int = 2, context: int = 32, **config: Any) -> Scheduler:
    return Scheduler(Capabilities(slots, context), SchedulerConfig(**config))


def ask(name: str = "a", prompt: int = 3, max_tokens: int = 4, **more: object) -> Request:
    return Request(name, tuple(range(prompt)), max_tokens, **more)  # type: ignore[arg-type]


def run_step(scheduler: Scheduler, token: int = 5, now: float = 0.0) -> Step:
    """One step in which every sequence that is due gets `token`."""
    step = scheduler.schedule(now)
    due = [c.slot for c in step.prefills if c.sample] + [r.slot for r in step.decodes]
    scheduler.apply(StepResult(step.number, tuple(SampledToken(s, token) for s in due)), now)
    return step


def test_a_request_goes_from_queue_to_end() -> None:
    scheduler = new_scheduler()
    sequence = scheduler.submit(ask(max_tokens=2), now=1.0)
    run_step(scheduler, token=5, now=2.0)
    run_step(scheduler, token=6, now=3.0)
    assert sequence.output == [5, 6]
    assert [t.state for t in sequence.history] == [
        State.WAITING,
        State.PREFILL,
        State.DECODE,
        State.FINISHED,
    ]
    assert sequence.finish_reason is FinishReason.MAX_TOKENS
    assert (sequence.first_token_at, sequence.last_token_at) == (2.0, 3.0)
    assert scheduler.idle
    assert scheduler.schedule(4.0).empty


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


def test_finish_cuts_the_output_and_drops_the_step_under_way() -> None:
    scheduler = new_scheduler()
    sequence = scheduler.submit(ask(), now=0.0)
    run_step(scheduler, token=5)
    run_step(scheduler, token=6)
    step = scheduler.schedule(1.0)
    scheduler.finish("a", 1.0, output_tokens=1)
    scheduler.apply(StepResult(step.number, (SampledToken(0, 7),)), 2.0)
    assert sequence.output == [5]
    assert sequence.finish_reason is FinishReason.STOP_SEQUENCE
    assert scheduler.slots.in_use == 0


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_cancel_in_every_state_frees_the_slot(steps: int) -> None:
    scheduler = new_scheduler(slots=1, prefill_tokens_max=2)
    sequence = scheduler.submit(ask(), now=0.0)
    for _ in range(steps):
        run_step(scheduler)
    states = [State.WAITING, State.PREFILL, State.DECODE]
    assert sequence.state is states[steps]
    scheduler.cancel("a", 1.0)
    assert sequence.state is State.CANCELLED
    assert isinstance(sequence.error, Cancelled)
    assert scheduler.slots.in_use == 0
    assert len(scheduler.queue) == 0
    scheduler.cancel("a", 2.0)  # once more changes nothing
    assert len(sequence.history) == steps + 2


def test_a_slot_freed_under_way_goes_to_the_next_and_not_the_result() -> None:
    scheduler = new_scheduler(slots=1)
    scheduler.submit(ask("a"), now=0.0)
    waiting = scheduler.submit(ask("b"), now=0.0)
    step = scheduler.schedule(0.0)
    scheduler.cancel("a", 0.5)
    scheduler.apply(StepResult(step.number, (SampledToken(0, 5),)), 1.0)
    assert waiting.output == []
    following = run_step(scheduler, token=6)
    assert [chunk.slot for chunk in following.prefills] == [0]
    assert waiting.output == [6]


@pytest.mark.parametrize(
    ("steps", "reason"), [(0, "QUEUE_TIMEOUT"), (1, "RUNNING_TIMEOUT"), (2, "RUNNING_TIMEOUT")]
)
def test_a_deadline_passes_in_every_state(steps: int, reason: str) -> None:
    scheduler = new_scheduler(slots=1, prefill_tokens_max=2)
    sequence = scheduler.submit(ask(deadline=10.0), now=0.0)
    for _ in range(steps):
        run_step(scheduler, now=9.9)
    step = scheduler.schedule(10.0)
    assert step.empty
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
    scheduler.cancel("late", 1.5)
    scheduler.cancel("told", 1.5, expired=True)
    assert late.state is told.state is State.EXPIRED


def test_cancel_with_an_error_fails() -> None:
    scheduler = new_scheduler()
    sequence = scheduler.submit(ask(), now=0.0)
    error = Unavailable("going down")
    scheduler.cancel("a", 1.0, error=error)
    assert (sequence.state, sequence.error) == (State.FAILED, error)


def test_the_queue_is_bounded_in_requests() -> None:
    scheduler = new_scheduler(queue_requests_max=2)
    for name in "ab":
        scheduler.submit(ask(name), now=0.0)
    with pytest.raises(LimitReached) as raised:
        scheduler.submit(ask("c"), now=0.0)
    assert raised.value.subject == "queue.requests"
    assert raised.value.retry_after > 0
    scheduler.schedule(0.0)  # both get slots
    scheduler.submit(ask("c"), now=0.0)


def test_the_queue_is_bounded_in_tokens() -> None:
    scheduler = new_scheduler(queue_tokens_max=14)
    scheduler.submit(ask("a", prompt=3, max_tokens=4), now=0.0)
    with pytest.raises(LimitReached) as raised:
        scheduler.submit(ask("b", prompt=4, max_tokens=4), now=0.0)
    assert raised.value.subject == "queue.tokens"
    scheduler.submit(ask("b", prompt=3, max_tokens=4), now=0.0)


def test_a_prompt_that_fills_the_context_is_refused() -> None:
    scheduler = new_scheduler(context=8)
    with pytest.raises(InvalidField, match="8 tokens leave no room in the context of 8"):
        scheduler.submit(ask(prompt=8), now=0.0)
    scheduler.submit(ask(prompt=7), now=0.0)


def test_an_id_that_is_alive_is_a_bug() -> None:
    scheduler = new_scheduler()
    scheduler.submit(ask(), now=0.0)
    with pytest.raises(ValueError, match="already here"):
        scheduler.submit(ask(), now=0.0)


def test_one_step_at_a_time() -> None:
    scheduler = new_scheduler()
    scheduler.submit(ask(), now=0.0)
    step = scheduler.schedule(0.0)
    with pytest.raises(RuntimeError, match="under way"):
        scheduler.schedule(0.0)
    scheduler.apply(StepResult(step.number, (SampledToken(0, 5),)), 0.0)
    with pytest.raises(RuntimeError, match="no step"):
        scheduler.apply(StepResult(step.number), 0.0)


def test_a_slot_that_failed_fails_its_request_alone() -> None:
    scheduler = new_scheduler()
    a, b = (scheduler.submit(ask(name), now=0.0) for name in "ab")
    step = scheduler.schedule(0.0)
    result = StepResult(step.number, (SampledToken(1, 5),), (SlotFailure(0, "no room"),))
    scheduler.apply(result, 1.0)
    assert isinstance(a.error, RunnerFailed)
    assert b.output == [5]
    assert scheduler.slots.in_use == 1


def test_a_lost_runner_sends_all_back_before_their_class() -> None:
    scheduler = new_scheduler(slots=2)
    a, b, c = (scheduler.submit(ask(name), now=float(i)) for i, name in enumerate("abc"))
    run_step(scheduler, token=5, now=3.0)
    scheduler.schedule(4.0)
    scheduler.runner_lost(5.0, outside=True)
    in_order = sorted(scheduler.queue, key=lambda s: scheduler.policy.key(s, 5.0))
    assert in_order == [a, b, c]
    step = run_step(scheduler, token=6, now=6.0)
    assert [opened.output for opened in step.opens] == [(5,), (5,)]
    assert [chunk.tokens for chunk in step.prefills] == [(0, 1, 2, 5)] * 2
    assert a.output == b.output == [5, 6]
    assert a.first_token_at == 3.0


def test_decode_rows_never_wait_for_a_long_prompt() -> None:
    scheduler = new_scheduler(context=4000, step_target_seconds=0.1)
    short = scheduler.submit(ask("short", max_tokens=100), now=0.0)
    run_step(scheduler)
    scheduler.submit(ask("long", prompt=3000), now=0.0)
    for produced in range(2, 40):
        step = run_step(scheduler)
        assert [row.slot for row in step.decodes] == [0]
        assert 0 < step.prefill_tokens < 60
        assert len(short.output) == produced


def test_rows_and_prompts_take_turns_where_they_are_too_long_together() -> None:
    capabilities = Capabilities(2, 4000, prefill_unit=64)
    # 64 tokens take 0.15 s, and a row some 0.02 s.
    config = SchedulerConfig(step_target_seconds=0.15, determinism="batch_invariant")
    scheduler = Scheduler(capabilities, config)
    short = scheduler.submit(ask("short", max_tokens=100), now=0.0)
    run_step(scheduler)
    scheduler.submit(ask("long", prompt=3000), now=0.0)
    kinds = []
    for _ in range(10):
        step = run_step(scheduler)
        kinds.append((len(step.decodes), step.prefill_tokens))
    assert kinds == [(0, 64), (1, 0)] * 5
    assert len(short.output) == 6


def test_prompts_are_cut_at_whole_units_while_nobody_streams() -> None:
    config = SchedulerConfig(step_target_seconds=0.1)
    scheduler = Scheduler(Capabilities(4, 4000, prefill_unit=64), config)
    scheduler.submit(ask("long", prompt=3000), now=0.0)
    assert [run_step(scheduler).prefill_tokens for _ in range(10)] == [64] * 10
    scheduler.submit(ask("other", prompt=5, max_tokens=100), now=0.0)
    run_step(scheduler)
    assert 0 < run_step(scheduler).prefill_tokens < 64


def test_rows_that_waited_do_not_wait_for_another_prompt() -> None:
    config = SchedulerConfig(step_target_seconds=0.18, determinism="batch_invariant")
    scheduler = Scheduler(Capabilities(16, 4000, prefill_unit=64), config)
    running = [scheduler.submit(ask(name, max_tokens=100), now=0.0) for name in "abcdefghijkl"]
    run_step(scheduler)
    scheduler.submit(ask("long", prompt=3000), now=0.0)
    step = run_step(scheduler)
    assert (len(step.decodes), step.prefill_tokens) == (0, 64)
    # Now there is room for a row and a chunk.
    for sequence in running[1:]:
        scheduler.cancel(sequence.request.id, 0.0)
    step = run_step(scheduler)
    assert (len(step.decodes), step.prefill_tokens) == (1, 0)
    step = run_step(scheduler)
    assert (len(step.decodes), step.prefill_tokens) == (1, 64)


@pytest.mark.parametrize(("prompts", "times"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (15, 4)])
def test_a_step_is_stretched_for_many_prompts(prompts: int, times: int) -> None:
    config = SchedulerConfig(step_target_seconds=0.2, prefix_cache=False)
    scheduler = Scheduler(Capabilities(16, 4000), config)
    scheduler.submit(ask("running", max_tokens=100), now=0.0)
    run_step(scheduler)
    for number in range(prompts):
        scheduler.submit(ask(f"{number}", prompt=3000), now=0.0)
    tokens = run_step(scheduler).prefill_tokens
    beside = config.step_target_seconds * times - scheduler.cost.decode_seconds(1)
    assert tokens == pytest.approx(scheduler.cost.prefill_tokens(beside, 0), rel=0.1)


@pytest.mark.parametrize(("stretch", "at_once"), [(1.9, False), (2.1, True)])
def test_a_step_is_stretched_for_all_of_a_prompt(stretch: float, at_once: bool) -> None:
    cost = CostModel()
    seconds = cost.decode_seconds(1) + cost.prefill_seconds(100)
    config = SchedulerConfig(step_target_seconds=seconds / 2, prompt_stretch_max=stretch)
    scheduler = Scheduler(Capabilities(16, 4000), config)
    scheduler.submit(ask("running", max_tokens=100), now=0.0)
    run_step(scheduler)
    scheduler.submit(ask("short", prompt=100), now=0.0)
    assert (run_step(scheduler).prefill_tokens == 100) is at_once


def test_a_step_is_not_stretched_for_the_rest_of_a_prompt() -> None:
    scheduler = new_scheduler(context=4000, step_target_seconds=0.1)
    scheduler.submit(ask("running", max_tokens=100), now=0.0)
    run_step(scheduler)
    scheduler.submit(ask("long", prompt=110), now=0.0)
    lengths = [run_step(scheduler).prefill_tokens for _ in range(4)]
    assert sum(lengths) == 110
    assert max(lengths) < 50


def test_a_higher_class_is_prefilled_first() -> None:
    scheduler = new_scheduler(context=1000, prefill_tokens_max=10)
    scheduler.submit(ask("normal", prompt=30), now=0.0)
    run_step(scheduler)
    scheduler.submit(ask("high", prompt=10, priority=Priority.HIGH), now=1.0)
    assert [chunk.slot for chunk in run_step(scheduler).prefills] == [1]


def test_decode_rows_stand_in_the_order_of_slots() -> None:
    scheduler = new_scheduler(slots=4, context=100, compaction=False)
    for name in "abcd":
        scheduler.submit(ask(name, max_tokens=50), now=0.0)
    run_step(scheduler)
    scheduler.cancel("b", 0.0)
    assert [row.slot for row in run_step(scheduler).decodes] == [0, 2, 3]


def test_penalties_need_the_prompt_and_nothing_else_does() -> None:
    scheduler = new_scheduler()
    scheduler.submit(ask("plain"), now=0.0)
    scheduler.submit(ask("penal", sampling=Sampling(presence_penalty=1.0)), now=0.0)
    opens = scheduler.schedule(0.0).opens
    assert [opened.prompt for opened in opens] == [(), (0, 1, 2)]


def test_logprobs_pass_through() -> None:
    scheduler = new_scheduler()
    scheduler.submit(ask(top_logprobs=2), now=0.0)
    step = scheduler.schedule(0.0)
    assert step.opens[0].top_logprobs == 2
    scheduler.apply(StepResult(step.number, (SampledToken(0, 5, None),)), 0.0)
    produced = [e for e in scheduler.take_events() if isinstance(e, Produced)]
    assert [event.token for event in produced] == [5]


@pytest.mark.parametrize(
    "field",
    [f.name for f in fields(SchedulerConfig) if f.type in ("int", "float")],
)
def test_limits_that_make_no_sense_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        SchedulerConfig(**{field: -1})  # type: ignore[arg-type]
