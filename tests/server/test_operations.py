"""What the scheduler looks like from outside, and which models there are."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from running_server import RunningServer, asked, detail, error_of, gated, serving

from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.v1 import generation_pb2, models_pb2, operations_pb2

FREE = operations_pb2.SLOT_STATE_FREE
PREFILL = operations_pb2.SLOT_STATE_PREFILL
DECODE = operations_pb2.SLOT_STATE_DECODE
CACHED = operations_pb2.SLOT_STATE_CACHED
HIGHEST_FIRST = [
    generation_pb2.PRIORITY_CRITICAL,
    generation_pb2.PRIORITY_HIGH,
    generation_pb2.PRIORITY_NORMAL,
    generation_pb2.PRIORITY_LOW,
]

FULL = {"queue_requests_max": 1, "tenant_queue_share": 1.0}


async def state_of(server: RunningServer) -> operations_pb2.SchedulerState:
    request = operations_pb2.GetSchedulerStateRequest()
    answer = await server.operations.GetSchedulerState(request)
    state = answer.state
    assert isinstance(state, operations_pb2.SchedulerState)
    return state


def watch(server: RunningServer, seconds: float | None = None) -> Any:
    interval = None
    if seconds is not None:
        interval = Duration()
        interval.FromNanoseconds(round(seconds * 1e9))
    request = operations_pb2.WatchSchedulerStateRequest(interval=interval)
    return server.operations.WatchSchedulerState(request)


async def test_the_state() -> None:
    async with gated(sequences=2) as server:
        idle = await state_of(server)
        assert idle.model == "scripted"
        assert [queue.priority for queue in idle.queues] == HIGHEST_FIRST
        assert [slot.state for slot in idle.slots] == [FREE, FREE]
        assert not idle.HasField("last_step")
        assert abs(idle.time.ToSeconds() - time.time()) < 60

        stream = server.inference.Stream(
            asked("12345", request_id="a", max_tokens=20, priority=3),
            metadata=[("x-tenant-id", "somebody")],
        )
        assert (await stream.read()).HasField("started")
        server.runner.let(3)
        await server.runner.held(4)
        second = asyncio.ensure_future(server.generate("1234567", request_id="b"))
        await server.recorder.state("b", State.WAITING)
        third = asyncio.ensure_future(
            server.generate("12", request_id="c", max_tokens=9, priority=1)
        )
        await server.recorder.state("c", State.WAITING)
        server.runner.let(1)
        await server.runner.held(5)

        busy = await state_of(server)
        assert busy.slots[0] == operations_pb2.Slot(
            index=0,
            state=DECODE,
            request_id="a",
            priority=generation_pb2.PRIORITY_HIGH,
            tokens=5 + 3,  # its last token waits for the next rows
            completion_tokens=4,
            tenant="somebody",
            prompt_tokens=5,
            max_tokens=20,
        )
        assert busy.slots[1] == operations_pb2.Slot(
            index=1,
            state=PREFILL,
            request_id="b",
            priority=generation_pb2.PRIORITY_NORMAL,
            tokens=7,
            prompt_tokens=7,
            max_tokens=8,
        )
        assert [queue.requests for queue in busy.queues] == [0, 0, 0, 1]
        assert [queue.tokens for queue in busy.queues] == [0, 0, 0, 11]
        assert (busy.last_step.number, busy.last_step.decode_rows) == (4, 1)
        assert busy.last_step.prefill_tokens == 0
        assert busy.last_step.duration.ToNanoseconds() > 0

        stream.cancel()
        await server.recorder.state("a", State.CANCELLED)
        server.runner.open()
        await asyncio.gather(second, third)
        done = await state_of(server)
        assert dict(done.outcomes) == {"cancelled": 1, "finished": 2}


async def test_what_is_left_when_all_is_done() -> None:
    async with gated(sequences=2) as server:
        before = await state_of(server)
        assert (before.policy, before.determinism) == ("fair", "fast")
        assert before.saved_cache_bytes_max == 512 * 1024 * 1024
        server.runner.open()
        acme = [("x-tenant-id", "acme")]
        await server.inference.Generate(asked("12345", max_tokens=3), metadata=acme)
        await server.generate("1234567", max_tokens=4, priority=3)
        done = await state_of(server)
        assert sorted(slot.state for slot in done.slots) == [CACHED, CACHED]
        assert sorted(slot.tenant for slot in done.slots) == ["", "acme"]
        # In all, then HIGH and NORMAL.
        assert [latency.requests for latency in done.latencies] == [2, 1, 1]
        tokens = {t.tenant: (t.prompt_tokens, t.completion_tokens) for t in done.tenants}
        assert tokens == {"acme": (5, 3), "": (7, 4)}


async def test_refusals_are_counted() -> None:
    async with gated(sequences=1, scheduler=FULL) as server:
        calls = await server.fill()
        await error_of(server.generate())
        state = await state_of(server)
        assert state.outcomes["refused"] == 1
        assert dict(state.refusals) == {"queue.requests": 1}
        server.runner.open()
        await asyncio.gather(*calls)


async def test_a_watch_shows_changes_only() -> None:
    async with gated(sequences=1) as server:
        watching = watch(server, 0.1)
        first = (await watching.read()).state
        assert first.slots[0].state == FREE
        stream = server.stream(request_id="a")
        assert (await stream.read()).HasField("started")
        second = (await watching.read()).state
        assert second.slots[0].request_id == "a"
        # Held up, nothing changes: the next reading comes with the next step.
        reading = asyncio.ensure_future(watching.read())
        quiet = watch(server, 0.1)
        await quiet.read()
        assert not reading.done()
        server.runner.let(1)
        assert (await reading).state.last_step.number == 1
        quiet.cancel()
        stream.cancel()
        watching.cancel()
        server.runner.open()


async def test_the_rate_of_a_watch_is_bounded() -> None:
    # However often the state changes, readings are at least the interval apart.
    async with gated(sequences=1) as server:
        server.runner.open()

        async def change() -> None:
            while True:
                await server.generate()

        watching = watch(server, 0.1)
        changing = asyncio.create_task(change())
        times = [(await watching.read()).state.time.ToNanoseconds() for _ in range(3)]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert min(gaps) > 0.09e9
        changing.cancel()
        await asyncio.wait([changing])
        watching.cancel()


async def test_more_watches_than_there_may_be() -> None:
    async with serving(watchers_max=2) as server:
        first, second = watch(server), watch(server)
        for one in (first, second):
            await one.read()
        error = await error_of(watch(server).read())
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert detail(error, error_details_pb2.QuotaFailure).violations[0].subject == "watchers_max"
        # A place that has become free is there for the next, as soon as the server has seen it.
        first.cancel()
        while True:
            third = watch(server)
            try:
                assert (await third.read()).HasField("state")
                break
            except grpc.aio.AioRpcError:
                continue
        second.cancel()
        third.cancel()


async def test_watches_end_when_the_server_shuts_down() -> None:
    async with gated() as server:
        watches = [watch(server), watch(server, 3600)]
        for one in watches:
            await one.read()
        stopping = asyncio.ensure_future(server.app.stop())
        for one in watches:
            assert await one.read() is grpc.aio.EOF
            assert await one.code() is grpc.StatusCode.OK
        await stopping


@pytest.mark.parametrize("seconds", [0.1, 3600])
async def test_intervals_inside(scripted: RunningServer, seconds: float) -> None:
    one = watch(scripted, seconds)
    assert (await one.read()).state.model == "scripted"
    one.cancel()


@pytest.mark.parametrize("seconds", [0, 0.099, 3600.1, -1, 300_000_000_000])
async def test_intervals_outside(scripted: RunningServer, seconds: float) -> None:
    error = await error_of(watch(scripted, seconds).read())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert violation.field == "interval"
    assert "0.1 to 3600" in violation.description


async def test_the_models(tiny: RunningServer) -> None:
    (model,) = (await tiny.models.ListModels(models_pb2.ListModelsRequest())).models
    for name in ("", "tiny"):
        answer = await tiny.models.GetModel(models_pb2.GetModelRequest(name=name))
        answer.model.memory_bytes = model.memory_bytes
        assert answer.model == model
    assert model.memory_bytes > 0
    model.memory_bytes = 0
    assert model.settings["sequences"] == str(model.capabilities.sequences_max)
    assert {"threads", "cache_type", "prefill_chunk"} <= model.settings.keys()
    assert model.settings["determinism"] == "batch_invariant"
    assert 0.125 <= float(model.settings["step_target_seconds"]) <= 0.5
    model.ClearField("settings")
    model.ClearField("notes")
    model.ClearField("default_sampling")  # see test_default_sampling.py
    assert model == models_pb2.Model(
        name="tiny",
        backend="llama.cpp",
        architecture="llama",
        description="Tiny Random Llama",
        parameter_count=model.parameter_count,
        quantization="Q8_0",
        vocabulary_size=tiny.model.vocabulary_size,
        training_context=1024,
        state=models_pb2.MODEL_STATE_READY,
        capabilities=models_pb2.Capabilities(
            sequences_max=16,
            context_per_sequence=256,
            logprobs=True,
            chat=True,
            partial_clear=True,
            prefix_copy=True,
            save_restore=True,
            batch_invariant=model.capabilities.batch_invariant,
        ),
        is_default=True,
    )
    assert model.parameter_count > 100_000


async def test_a_model_while_it_loads_and_drains() -> None:
    async with gated(sequences=1, load=False) as server:
        request = models_pb2.GetModelRequest()
        model = (await server.models.GetModel(request)).model
        assert model.state == models_pb2.MODEL_STATE_LOADING
        assert not model.HasField("capabilities")
        await server.app.load()
        stream = server.stream()
        assert (await stream.read()).HasField("started")
        stopping = asyncio.ensure_future(server.app.stop(60))
        await server.recorder.until(lambda: server.model.state.value == "draining")
        model = (await server.models.GetModel(request)).model
        assert model.state == models_pb2.MODEL_STATE_DRAINING
        assert model.capabilities.sequences_max == 1
        stream.cancel()
        server.runner.open()
        await stopping
