"""What a step computes: rows or chunks, how long, and of whom."""

from __future__ import annotations

import pytest
from stepping import answer, ask, new_scheduler, run_step

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.planner import GAP_SHARE
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.step import Capabilities, Step


class Clock:
    """Steps that take the time that the scheduler expects."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler, self.now = scheduler, 0.0

    def step(self) -> Step:
        step = self.scheduler.schedule(self.now)
        assert step is not None
        seconds = self.scheduler.cost.predict(step.shape)
        self.now += seconds + self.scheduler.cost.operations(step.operations)
        self.scheduler.apply(answer(step), self.now)
        return step


def test_prompts_and_rows_take_turns_beside_streams() -> None:
    scheduler = new_scheduler(context=4000, step_target_seconds=0.24)
    clock = Clock(scheduler)
    short = scheduler.submit(ask("short", max_tokens=100), now=0.0)
    clock.step()
    scheduler.submit(Request("long", tuple(range(100, 3100)), 4), clock.now)
    kinds = [clock.step().rows for _ in range(20)]
    assert kinds == [False, True] * 10
    assert len(short.output) == 11


@pytest.mark.parametrize(
    ("prompts", "class_of_others", "targets"),
    [
        (1, Priority.NORMAL, 1),
        (2, Priority.NORMAL, 1),
        (3, Priority.NORMAL, 2),
        (9, Priority.NORMAL, 2),
        (3, Priority.LOW, 1),
    ],
)
def test_streams_wait_for_one_target_and_for_two_where_three_prompts_wait(
    prompts: int, class_of_others: Priority, targets: int
) -> None:
    target = 0.25
    scheduler = new_scheduler(
        slots=16, context=4000, step_target_seconds=target, prefix_cache=False
    )
    clock = Clock(scheduler)
    scheduler.submit(ask("running", max_tokens=100), clock.now)
    clock.step()
    for number in range(prompts):
        priority = class_of_others if number else Priority.NORMAL
        request = Request(f"{number}", (number,) * 3000, 4, priority=priority)
        scheduler.submit(request, clock.now)
    begun = clock.now
    while not clock.step().rows:
        pass
    gap = clock.now - begun
    assert GAP_SHARE * targets * target / 2 < gap <= GAP_SHARE * targets * target


@pytest.mark.parametrize(("later", "targets"), [(0.0, 2), (0.001, 1)])
def test_streams_wait_as_long_for_the_last_of_three_prompts_that_came_together(
    later: float, targets: int
) -> None:
    target = 0.25
    scheduler = new_scheduler(slots=4, context=4000, step_target_seconds=target, prefix_cache=False)
    clock = Clock(scheduler)
    scheduler.submit(ask("running", max_tokens=3000), now=0.0)
    clock.step()
    came = clock.now
    # The two that are short go first, whether they came before the last one or after it.
    last = scheduler.submit(Request("last", (9,) * 3000, 4), came)
    passing = [Request(f"{n}", (n,) * 200, 3000) for n in range(2)]
    others = [scheduler.submit(request, came + later) for request in passing]
    while not all(other.output for other in others):
        clock.step()
    while not clock.step().rows:
        pass
    begun = clock.now
    while not clock.step().rows:
        pass
    gap = clock.now - begun
    assert not last.output
    assert GAP_SHARE * targets * target / 2 < gap <= GAP_SHARE * targets * target


@pytest.mark.parametrize(("prompt", "rows_between"), [(112, False), (400, True)])
def test_streams_wait_longer_for_the_end_of_a_short_prompt_only(
    prompt: int, rows_between: bool
) -> None:
    scheduler = new_scheduler(context=4000, step_target_seconds=0.18)
    clock = Clock(scheduler)
    scheduler.submit(ask("running", max_tokens=400), now=0.0)
    clock.step()
    asked = scheduler.submit(Request("asked", (5,) * prompt, 4), clock.now)
    rows = []
    while not asked.output:
        rows.append(clock.step().rows)
    assert rows[-2:] == [rows_between, False]


@pytest.mark.parametrize(("priority", "length"), [(Priority.NORMAL, 128), (Priority.HIGH, 256)])
def test_chunks_of_a_class_above_all_streams_may_take_twice_as_long(
    priority: Priority, length: int
) -> None:
    scheduler = new_scheduler(context=4000, chunk=256, step_target_seconds=0.6)
    clock = Clock(scheduler)
    scheduler.submit(ask("running", max_tokens=400), now=0.0)
    clock.step()
    scheduler.submit(Request("long", (5,) * 3000, 4, priority=priority), clock.now)
    chunks = [step.prompt_tokens for _ in range(4) if not (step := clock.step()).rows]
    assert chunks[0] == length


@pytest.mark.parametrize("length", [32, 8, 64])
def test_chunks_beside_streams_are_cut_down_to_what_is_faster(length: int) -> None:
    capabilities = Capabilities(4, 4000, chunk=64, chunk_min=length)
    scheduler = Scheduler(capabilities, SchedulerConfig(step_target_seconds=0.01))
    clock = Clock(scheduler)
    scheduler.submit(ask("running", max_tokens=400), now=0.0)
    clock.step()
    scheduler.submit(Request("long", (5,) * 3000, 4), clock.now)
    chunks = [step.prompt_tokens for _ in range(4) if not (step := clock.step()).rows]
    assert chunks[0] == length


def test_chunks_have_the_machines_length_without_streams() -> None:
    scheduler = new_scheduler(context=4000, chunk=256, step_target_seconds=0.1)
    scheduler.submit(ask("long", prompt=3000), now=0.0)
    assert [run_step(scheduler).prompt_tokens for _ in range(5)] == [256] * 5


def test_chunks_keep_to_the_target_where_a_higher_class_came_lately() -> None:
    scheduler = new_scheduler(context=4000, chunk=256, step_target_seconds=0.2)
    urgent = ask("urgent", max_tokens=1, priority=Priority.HIGH)
    scheduler.submit(urgent, now=0.0)
    run_step(scheduler)
    scheduler.submit(ask("long", prompt=3000), now=1.0)
    for _ in range(10):
        step = run_step(scheduler, now=1.0)
        assert scheduler.cost.predict(step.shape) <= 0.2
    assert run_step(scheduler, now=1000.0).prompt_tokens == 256


@pytest.mark.parametrize("length", [120, 3000])
def test_a_chunk_leaves_time_for_rows_where_a_higher_class_came_lately(length: int) -> None:
    target = 0.25
    scheduler = new_scheduler(
        slots=8, context=4000, chunk=256, prefix_cache=False, step_target_seconds=target
    )
    clock = Clock(scheduler)
    scheduler.submit(ask("urgent", max_tokens=1, priority=Priority.HIGH), now=0.0)
    for number in range(5):
        scheduler.submit(ask(f"{number}", max_tokens=100), now=0.0)
    for name in "xyz":
        scheduler.submit(ask(name, prompt=length), now=0.0)
    rows, together = 0.0, []
    for _ in range(30):
        step = clock.step()
        seconds = scheduler.cost.predict(step.shape)
        if step.rows:
            rows = seconds
        elif rows:
            together.append(seconds + rows)
    assert 0.5 * target < max(together) <= target


def test_the_end_of_a_prompt_goes_along_with_its_last_chunk() -> None:
    scheduler = new_scheduler(context=4000, chunk=64)
    scheduler.submit(ask("a", prompt=64 + 70), now=0.0)
    assert [run_step(scheduler).prompt_tokens for _ in range(2)] == [64, 70]


def test_chunks_of_neighbours_join() -> None:
    capabilities = Capabilities(5, 4000, 128, joins=True)
    scheduler = Scheduler(capabilities, SchedulerConfig(step_target_seconds=1.0))
    lengths = (50, 52, 120, 51, 20)
    for number, length in enumerate(lengths):
        scheduler.submit(Request(f"{number}", (number,) * length, 4), now=0.0)
    joined = [[len(run.tokens) for run in run_step(scheduler).runs] for _ in range(4)]
    assert joined == [[20], [51], [50, 52], [120]]


def test_of_prompts_of_about_the_same_length_one_beside_the_streams_goes_first() -> None:
    scheduler = new_scheduler(slots=5, context=4000, prefix_cache=False, step_target_seconds=0.5)
    for number, length in enumerate((59, 57, 20, 58, 56)):
        scheduler.submit(Request(f"{number}", (number,) * length, 90), now=0.0)
    chunks = [step.runs[0].slot for _ in range(9) if not (step := run_step(scheduler)).rows]
    assert chunks == [2, 1, 0, 3, 4]


def test_a_higher_class_is_prefilled_first_and_alone() -> None:
    capabilities = Capabilities(4, 4000, 64, joins=True)
    scheduler = Scheduler(capabilities, SchedulerConfig())
    scheduler.submit(ask("normal", prompt=300), now=0.0)
    run_step(scheduler)
    high = scheduler.submit(ask("high", prompt=64, priority=Priority.HIGH), now=1.0)
    assert [run.key for run in run_step(scheduler, now=1.0).runs] == [high.key]


def rows_of(streams: int, max_tokens: int = 100, calls_max: int = 8, **config: object) -> Step:
    """A step of rows, in the middle of so many streams, whose calls are predicted exactly."""
    config = {"step_target_seconds": 0.2, "delivery_seconds": 0.05, **config}
    scheduler = Scheduler(Capabilities(8, 120, calls_max=calls_max), SchedulerConfig(**config))  # type: ignore[arg-type]
    for number in range(streams):
        scheduler.submit(ask(f"{number}", max_tokens=max_tokens), now=0.0)
    while not run_step(scheduler).rows:
        pass
    return run_step(scheduler)


def rows_seconds(streams: int) -> float:
    scheduler = new_scheduler()
    return scheduler.cost.rows_seconds(streams, context=4)


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_rows_alone_are_computed_for_as_long_as_tokens_may_come_together(streams: int) -> None:
    expected = max(min(int(0.05 / rows_seconds(streams)), 8), 1)
    assert rows_of(streams).calls == expected


def test_fewer_calls_than_the_runner_does_at_most() -> None:
    assert [rows_of(1, calls_max=most, delivery_seconds=9.0).calls for most in (1, 2, 3)] == [
        1,
        2,
        3,
    ]


def test_half_of_the_step_target_bounds_calls_too() -> None:
    expected = int(0.04 / rows_seconds(1))
    assert rows_of(1, step_target_seconds=0.08).calls == expected


def test_tokens_come_by_themselves_where_that_is_asked_for() -> None:
    assert rows_of(1, delivery_seconds=0.0).calls == 1


def test_no_more_calls_than_a_stream_has_tokens_left() -> None:
    assert rows_of(1, max_tokens=4, delivery_seconds=9.0, step_target_seconds=9.0).calls == 2


def test_one_call_of_a_prompts_token_after_which_nothing_is_drawn() -> None:
    scheduler = Scheduler(Capabilities(1, 64, chunk=1, calls_max=8))
    scheduler.submit(ask(prompt=5, max_tokens=20), now=0.0)
    steps = [run_step(scheduler) for _ in range(6)]
    assert [step.calls for step in steps[:4]] == [1, 1, 1, 1]
    assert [step.runs[0].start for step in steps[:5]] == [0, 1, 2, 3, 4]
    assert steps[5].calls > 1


def test_output_that_is_computed_again_keeps_to_the_tokens_of_a_call() -> None:
    can = Capabilities(1, 128, chunk=8, call_tokens_max=8, batch_invariant=True)
    scheduler = Scheduler(can, SchedulerConfig(determinism="batch_invariant"))
    scheduler.submit(ask(prompt=5, max_tokens=60), now=0.0)
    for _ in range(40):
        run_step(scheduler)
    scheduler.runner_lost(0.0, outside=True)
    again = [len(run_step(scheduler).runs[0].tokens) for _ in range(6)]
    assert max(again) <= 8
    assert sum(again) >= 40


def beside_a_stream(request: Request) -> Clock:
    """A scheduler that has begun a stream when a request comes."""
    config = SchedulerConfig(step_target_seconds=0.2, delivery_seconds=0.05)
    clock = Clock(Scheduler(Capabilities(2, 4000, calls_max=8), config))
    clock.scheduler.submit(ask("a", max_tokens=100), now=0.0)
    clock.step()
    clock.scheduler.submit(request, clock.now)
    return clock


def test_one_call_after_a_chunk_for_which_streams_have_waited() -> None:
    clock = beside_a_stream(ask("b", max_tokens=100))
    assert [clock.step().calls for _ in range(3)] == [1, 1, int(0.05 / rows_seconds(2))]


def test_one_call_where_a_prompt_waits_to_be_computed() -> None:
    clock = beside_a_stream(ask("b", prompt=3000))
    assert {step.calls for _ in range(10) if (step := clock.step()).rows} == {1}


def test_one_call_where_rows_are_apart() -> None:
    config = SchedulerConfig(step_target_seconds=0.2, delivery_seconds=9.0)
    scheduler = Scheduler(Capabilities(4, 120, copy=False, calls_max=8), config)
    live = [scheduler.submit(ask(name, max_tokens=100), now=0.0) for name in "abc"]
    while not run_step(scheduler).rows:
        pass
    scheduler.cancel(live[1].key, 0.0)
    assert run_step(scheduler).calls == 1
    scheduler.cancel(live[2].key, 0.0)
    assert run_step(scheduler).calls > 1


def test_joined_chunks_keep_to_the_tokens_of_a_call() -> None:
    scheduler = Scheduler(Capabilities(8, 4096, chunk=64, call_tokens_max=128, joins=True))
    for number in range(4):
        scheduler.submit(Request(f"{number}", (number,) * 64, 4), 0.0)
    step = scheduler.schedule(0.0)
    assert step is not None
    assert [len(run.tokens) for run in step.runs] == [64, 64]
