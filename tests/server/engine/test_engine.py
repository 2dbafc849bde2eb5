from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from llm_serving_engine.backends.follow import Follower
from llm_serving_engine.backends.runner import RunnerLost
from llm_serving_engine.backends.scripted import ScriptedBackend, next_token
from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.errors import (
    Cancelled,
    LimitReached,
    RequestError,
    RequestFailed,
    RunnerFailed,
    Unavailable,
)
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.policy import Key, Policy
from llm_serving_engine.scheduler.request import FinishReason, Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Capabilities, Step, StepResult
from llm_serving_engine.server.engine.engine import Engine
from llm_serving_engine.server.engine.stream import TokenStream


class GatedRunner:
    """The scripted model behind a gate: a step waits until it is let through."""

    def __init__(self) -> None:
        self.backend = ScriptedBackend()
        self._follower = Follower(lambda step: self.backend.execute(step))
        self.open = asyncio.Event()
        self.open.set()
        self.begun: list[Step] = []
        self.steps_max = 1
        self.recalls: list[int] = []
        self.loses = 0
        self.recoveries = 0
        self.outside = False

    @property
    def capabilities(self) -> Capabilities:
        return self.backend.report.capabilities

    def begin(self, step: Step) -> asyncio.Task[StepResult]:
        self.begun.append(step)
        return asyncio.create_task(self._execute(step))

    async def reap(self) -> bool:
        return self.outside

    async def recover(self) -> None:
        self.recoveries += 1
        self.backend = ScriptedBackend()

    async def _execute(self, step: Step) -> StepResult:
        await self.open.wait()
        if self.loses:
            self.loses -= 1
            raise RunnerLost("gone")
        if step.number in self.recalls:
            return StepResult(step.number, recalled=True)
        return self._follower.execute(step)

    def recall(self, number: int) -> None:
        self.recalls.append(number)


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.states: list[tuple[str, State]] = []
        self.refusals: list[RequestError] = []
        self.steps = 0

    def transitioned(self, sequence: Sequence) -> None:
        self.states.append((sequence.request.id, sequence.state))

    def refused(self, request: Request, error: RequestError) -> None:
        self.refusals.append(error)

    def stepped(self, step: Step, result: StepResult) -> None:
        self.steps += 1


class Stage:
    """An engine that runs, and all that a test looks at."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.runner = GatedRunner()
        self.recorder = Recorder()
        self.engine = Engine(
            Scheduler(self.runner.capabilities, config), self.runner, [self.recorder]
        )


@asynccontextmanager
async def running(**config: Any) -> AsyncIterator[Stage]:
    stage = Stage(SchedulerConfig(**config))
    task = asyncio.create_task(stage.engine.run())
    try:
        yield stage
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def ask(name: str = "a", max_tokens: int = 5) -> Request:
    return Request(name, tuple(name.encode()), max_tokens)


async def read(stream: TokenStream) -> list[int]:
    return [produced.token async for batch in stream for produced in batch]


def expected(request: Request) -> list[int]:
    tokens = list(request.prompt)
    while len(tokens) < len(request.prompt) + request.max_tokens:
        tokens.append(next_token(tokens))
    return tokens[len(request.prompt) :]


@pytest.mark.parametrize("max_tokens", [1, 2, 30])
async def test_a_stream_carries_the_models_tokens(max_tokens: int) -> None:
    async with running() as stage:
        stream = stage.engine.submit(ask(max_tokens=max_tokens))
        await stream.started()
        assert await read(stream) == expected(ask(max_tokens=max_tokens))
        assert stream.sequence.finish_reason is FinishReason.MAX_TOKENS


async def test_more_streams_than_slots_each_get_their_own() -> None:
    requests = [ask(f"request {i}", max_tokens=3 + i) for i in range(12)]
    async with running() as stage:
        streams = [stage.engine.submit(request) for request in requests]
        outputs = await asyncio.gather(*map(read, streams))
    assert outputs == [expected(request) for request in requests]


async def test_a_request_that_comes_while_idle_wakes_the_engine() -> None:
    async with running() as stage:
        for request in (ask("a"), ask("b")):
            assert await read(stage.engine.submit(request)) == expected(request)


async def test_observers_are_told_each_state_that_a_sequence_is_left_in() -> None:
    async with running() as stage:
        await read(stage.engine.submit(ask(max_tokens=2)))
        assert stage.recorder.states == [
            ("a", State.WAITING),
            ("a", State.PREFILL),
            ("a", State.DECODE),
            ("a", State.FINISHED),
        ]
        assert stage.recorder.steps == 2


async def test_cancel_ends_the_stream_and_frees_the_slot_at_once() -> None:
    async with running() as stage:
        stream = stage.engine.submit(ask(max_tokens=100))
        await stream.started()
        stage.engine.cancel(stream.sequence.key)
        assert stage.engine.scheduler.cache.in_use == 0
        with pytest.raises(Cancelled):
            await read(stream)


async def test_cancelled_before_it_started() -> None:
    async with running() as stage:
        stage.runner.open.clear()
        for name in "abcd":  # all four slots
            stage.engine.submit(ask(name))
        stream = stage.engine.submit(ask("waits"))
        stage.engine.cancel(stream.sequence.key)
        with pytest.raises(Cancelled):
            await stream.started()


async def test_a_refusal_is_raised_and_told() -> None:
    async with running(queue_requests_max=1, tenant_queue_share=1.0) as stage:
        stage.engine.submit(ask("a"))
        with pytest.raises(LimitReached):
            stage.engine.submit(ask("b"))
        assert [type(error) for error in stage.recorder.refusals] == [LimitReached]


async def test_an_unread_stream_is_ended_at_its_limit() -> None:
    async with running(stream_buffer_tokens_max=10) as stage:
        unread = stage.engine.submit(ask("unread", max_tokens=12))
        at_the_edge = stage.engine.submit(ask("edge", max_tokens=10))
        other = stage.engine.submit(ask("other", max_tokens=40))
        assert await read(other) == expected(ask("other", max_tokens=40))
        assert isinstance(unread.sequence.error, LimitReached)
        assert unread.sequence.error.subject == "stream.buffer_tokens"
        assert unread.buffered == 11
        assert at_the_edge.sequence.state is State.FINISHED


async def test_finish_ends_the_request_early() -> None:
    async with running() as stage:
        stream = stage.engine.submit(ask(max_tokens=100))
        async for _ in stream:
            stage.engine.finish(stream.sequence.key, output_tokens=1)
        assert stream.sequence.output == expected(ask(max_tokens=1))
        assert stream.sequence.finish_reason is FinishReason.STOP_SEQUENCE


async def test_a_lost_runner_is_replaced_and_streams_go_on() -> None:
    requests = [ask(name, max_tokens=20) for name in "abcdef"]
    async with running() as stage:
        streams = [stage.engine.submit(request) for request in requests]
        await streams[0].started()
        stage.runner.loses = 1
        outputs = await asyncio.gather(*map(read, streams))
    assert outputs == [expected(request) for request in requests]
    assert stage.runner.recoveries == 1


async def test_a_request_whose_runner_died_twice_fails_and_others_go_on() -> None:
    async with running() as stage:
        stage.runner.loses = 2
        doomed = stage.engine.submit(ask("doomed"))
        with pytest.raises(RequestFailed, match="makes its runner die") as raised:
            await read(doomed)
        assert raised.value.reason == RequestFailed.KILLS_RUNNER
        assert await read(stage.engine.submit(ask("b"))) == expected(ask("b"))


async def test_any_number_of_runners_may_be_lost_to_something_outside() -> None:
    requests = [ask(name, max_tokens=20) for name in "abc"]
    async with running() as stage:
        stage.runner.loses, stage.runner.outside = 30, True
        outputs = await asyncio.gather(*(read(stage.engine.submit(r)) for r in requests))
    assert outputs == [expected(request) for request in requests]
    assert stage.runner.recoveries == 30


async def test_no_request_waits_longer_than_configured_for_another_runner() -> None:
    back = asyncio.Event()
    async with running(recovery_seconds_max=0.01) as stage:
        stage.runner.recover = back.wait  # type: ignore[assignment, method-assign]
        stage.runner.loses = 1
        with pytest.raises(RunnerFailed, match="did not come back"):
            await read(stage.engine.submit(ask()))
        # It is still being brought back, and then goes on.
        back.set()
        assert await read(stage.engine.submit(ask("b"))) == expected(ask("b"))


async def test_how_far_readers_are_behind() -> None:
    async with running() as stage:
        assert stage.engine.tokens_behind == 0
        stage.engine.submit(ask("unread", max_tokens=30))
        await read(stage.engine.submit(ask("read", max_tokens=20)))
        assert stage.engine.tokens_behind == 20


async def test_drain_lets_requests_finish_and_refuses_others() -> None:
    async with running() as stage:
        stage.runner.open.clear()
        stream = stage.engine.submit(ask(max_tokens=20))
        draining = asyncio.create_task(stage.engine.drain(grace=3600))
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            stage.engine.submit(ask("late"))
        stage.runner.open.set()
        assert await read(stream) == expected(ask(max_tokens=20))
        await draining


async def test_drain_ends_what_outlives_the_grace() -> None:
    async with running() as stage:
        stage.runner.open.clear()
        stream = stage.engine.submit(ask())
        await stage.engine.drain(grace=0)
        with pytest.raises(Unavailable):
            await read(stream)


async def test_drain_of_an_idle_engine_returns() -> None:
    async with running() as stage:
        await stage.engine.drain(grace=3600)
        with pytest.raises(Unavailable):
            stage.engine.submit(ask())


async def test_the_next_step_is_on_its_way_before_tokens_are_handed_out() -> None:
    async with running() as stage:
        stream = stage.engine.submit(ask(max_tokens=5))
        async for _ in stream:
            if not stream.sequence.state.ended:
                assert len(stage.runner.begun) > len(stream.sequence.output)


async def test_the_next_step_is_on_its_way_before_observers_hear_of_the_last() -> None:
    behind: list[int] = []
    async with running() as stage:
        watched = stage.recorder.stepped

        def stepped(step: Step, result: StepResult) -> None:
            watched(step, result)
            behind.append(len(stage.runner.begun) - stage.recorder.steps)

        stage.recorder.stepped = stepped  # type: ignore[method-assign]
        await read(stage.engine.submit(ask(max_tokens=5)))
    assert behind == [1, 1, 1, 1, 0]  # after the last there is no next one


async def test_a_bug_in_a_step_fails_all_and_is_not_hidden() -> None:
    runner = GatedRunner()
    runner.backend.execute = None  # type: ignore[method-assign, assignment]
    engine = Engine(Scheduler(runner.capabilities), runner)
    task = asyncio.create_task(engine.run())
    stream = engine.submit(ask())
    with pytest.raises(RequestError, match="the engine failed"):
        await read(stream)
    with pytest.raises(TypeError):
        await task
    with pytest.raises(Unavailable):
        engine.submit(ask("b"))


async def test_every_caller_is_answered_where_the_scheduler_is_broken_for_good() -> None:
    runner = GatedRunner()
    scheduler = Scheduler(runner.capabilities)
    engine = Engine(scheduler, runner)
    streams = [engine.submit(ask(name)) for name in "abcdef"]
    scheduler.apply = scheduler.cancel = None  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(engine.run())
    for stream in streams:
        with pytest.raises(RequestError, match="the engine failed"):
            await read(stream)
    with pytest.raises(TypeError):
        await task
    await engine.drain(grace=3600)


@pytest.mark.parametrize("method", ["transitioned", "refused", "stepped"])
async def test_an_observer_that_raises_is_told_nothing_more(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken, whole = Recorder(), Recorder()
    setattr(broken, method, None)
    runner = GatedRunner()
    scheduler = Scheduler(
        runner.capabilities, SchedulerConfig(queue_requests_max=2, tenant_queue_share=1.0)
    )
    engine = Engine(scheduler, runner, [broken, whole])
    task = asyncio.create_task(engine.run())
    streams = [engine.submit(ask(name)) for name in "ab"]
    with pytest.raises(LimitReached):
        engine.submit(ask("c"))
    assert [await read(stream) for stream in streams] == [expected(ask(name)) for name in "ab"]
    task.cancel()
    assert len(whole.refusals) == 1
    assert whole.states.count(("b", State.FINISHED)) == 1
    assert caplog.text.count("the observer Recorder failed and is no longer called") == 1


async def test_a_policy_that_raises_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Policy):
        def key(self, sequence: Sequence, now: float) -> Key:
            raise KeyError("of its own")

    config = SchedulerConfig()
    runner = GatedRunner()
    engine = Engine(Scheduler(runner.capabilities, config, Broken(config)), runner)
    task = asyncio.create_task(engine.run())
    streams = [engine.submit(ask(name)) for name in "abcdef"]
    assert [await read(stream) for stream in streams] == [expected(ask(name)) for name in "abcdef"]
    task.cancel()
    words = "the policy Broken raised KeyError: 'of its own'; the default policy decides"
    assert caplog.text.count(words) == 1
