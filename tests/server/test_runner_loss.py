"""What callers see when a runner dies."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from held_runner import HeldRunner, may_start
from running_server import (
    SAME_BITS,
    RunningServer,
    asked,
    detail,
    details,
    error_of,
    gated,
    read_all,
    serving,
)

from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.v1 import models_pb2

HEALTH = health_pb2.HealthCheckResponse
TOKENS = 200
# In the middle of such an answer.
SOME = 20


def kill(process_id: int) -> None:
    os.kill(process_id, signal.SIGKILL)


def lose(server: RunningServer) -> int:
    """Kill the runner; its process id."""
    killed = server.signal_runner(signal.SIGSTOP)
    kill(killed)
    return killed


@pytest.mark.parametrize("model", ["scripted", "tiny"])
async def test_a_stream_survives_its_runner(
    model: str, tiny_quantized_model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runner = {"sequences": 2, "context_per_sequence": 512, "threads": 1}
    path = tiny_quantized_model_path if model == "tiny" else None
    # A prompt of several chunks.
    request: dict[str, Any] = {"prompt": "once upon a time " * 6, "max_tokens": TOKENS}
    async with serving(path, model={"runner": runner}, scheduler=SAME_BITS) as server:
        undisturbed = await server.generate(**request)
        stream = server.stream(request_id="survivor", top_logprobs=0, **request)
        sequence = await server.recorder.produced("survivor", SOME)
        killed = server.signal_runner(signal.SIGSTOP)
        assert not sequence.state.ended
        kill(killed)
        events = await read_all(stream)
        assert [event.WhichOneof("event") for event in events].count("started") == 1
        deltas = [event.delta for event in events if event.HasField("delta")]
        tokens = [token for delta in deltas for token in delta.token_ids]
        assert tokens == list(undisturbed.token_ids)
        assert "".join(delta.text for delta in deltas) == undisturbed.text
        usage = events[-1].finished.usage
        assert usage.prompt_tokens == undisturbed.usage.prompt_tokens
        assert usage.completion_tokens == undisturbed.usage.completion_tokens
        assert server.model.runner_process_id != killed
        assert sequence.times(Event.LOSE) == 1
        visited = [transition.state for transition in sequence.history]
        assert visited.count(State.WAITING) == 2
        assert "was lost" in caplog.text


async def test_a_seeded_stream_survives_its_runner(tiny_quantized_model_path: Path) -> None:
    runner = {"sequences": 2, "context_per_sequence": 512, "threads": 1}
    sampling = {"temperature": 1.0, "seed": 3, "frequency_penalty": 0.5, "repetition_penalty": 1.1}
    path = tiny_quantized_model_path
    async with serving(path, model={"runner": runner}, scheduler=SAME_BITS) as server:
        undisturbed = await server.generate(max_tokens=TOKENS, sampling=sampling)
        stream = server.stream(request_id="survivor", max_tokens=TOKENS, sampling=sampling)
        sequence = await server.recorder.produced("survivor", SOME)
        lose(server)
        events = await read_all(stream)
        assert sequence.times(Event.LOSE) == 1
        tokens = [token for event in events for token in event.delta.token_ids]
        assert tokens == list(undisturbed.token_ids)


async def test_a_stream_survives_any_number_of_kills() -> None:
    async with serving(model={"runner": {"sequences": 1}}) as server:
        stream = server.stream(request_id="unlucky", max_tokens=4000)
        sequence = await server.recorder.produced("unlucky", SOME)
        for _ in range(3):
            lose(server)
            # It goes on where it was.
            await server.recorder.produced("unlucky", len(sequence.output) + SOME)
        assert (await stream.read()).HasField("started")
        assert (await stream.read()).HasField("delta")
        assert sequence.times(Event.LOSE) == 3
        stream.cancel()


async def test_a_request_that_kills_its_runner_is_refused_and_the_others_finish() -> None:
    async with gated(sequences=2) as server:
        expected = asyncio.ensure_future(server.generate("survivor", max_tokens=20))
        await server.runner.held(1)
        server.runner.let(20)
        await expected
        server.runner.kills = "killer"
        killer = asyncio.ensure_future(error_of(server.generate("killer", max_tokens=20)))
        survivor = asyncio.ensure_future(server.generate("survivor", max_tokens=20))
        server.runner.open()
        error = await killer
        assert error.code() is grpc.StatusCode.INTERNAL
        assert error.details() == "the request makes its runner die"
        info = detail(error, error_details_pb2.ErrorInfo)
        assert (info.reason, info.domain) == ("REQUEST_KILLS_RUNNER", "llm-serving-engine")
        assert {type(one).__name__ for one in details(error)} == {"ErrorInfo"}
        assert (await survivor).text == (await expected).text
        assert server.runner.deaths <= 3


async def test_health_stays_through_a_short_restart() -> None:
    async with serving(make_runner=HeldRunner) as server:
        watch = server.health.Watch(health_pb2.HealthCheckRequest(service="scripted"))
        assert (await watch.read()).status == HEALTH.SERVING
        may_start(server).clear()
        lose(server)
        await server.recorder.until(lambda: server.model.state.value == "loading")
        for name in ("", "scripted"):
            status = await server.health.Check(health_pb2.HealthCheckRequest(service=name))
            assert status.status == HEALTH.SERVING
        may_start(server).set()
        await server.recorder.until(lambda: server.model.state.value == "ready")
        # The next word of the watch is the one that the shutdown sends.
        following = asyncio.ensure_future(watch.read())
        await server.generate()
        assert not following.done()
        await server.app.stop(0)
        assert (await following).status == HEALTH.NOT_SERVING


async def test_health_follows_where_a_restart_takes_longer() -> None:
    settings = {"supervision": {"restart_grace_seconds": 0}}
    async with serving(model=settings, make_runner=HeldRunner) as server:
        watch = server.health.Watch(health_pb2.HealthCheckRequest(service="scripted"))
        assert (await watch.read()).status == HEALTH.SERVING
        stream = server.stream(max_tokens=4000)
        assert (await stream.read()).HasField("started")
        may_start(server).clear()
        lose(server)
        assert (await watch.read()).status == HEALTH.NOT_SERVING
        may_start(server).set()
        assert (await watch.read()).status == HEALTH.SERVING
        assert (await stream.read()).HasField("delta")
        stream.cancel()
        watch.cancel()


async def test_a_runner_that_dies_while_nothing_runs() -> None:
    async with serving() as server:
        killed = lose(server)
        await server.recorder.until(lambda: server.model.state.value == "loading")
        answer = await server.generate(request_id="after")
        assert answer.text
        assert server.model.runner_process_id != killed
        assert server.recorder.sequences["after"].times(Event.LOSE) == 0


async def test_a_runner_that_dies_right_after_a_result() -> None:
    async with gated(sequences=1) as server:
        undisturbed = asyncio.ensure_future(server.generate(max_tokens=10))
        await server.runner.held(1)
        server.runner.let(10)
        stream = server.stream(request_id="survivor", max_tokens=10)
        await server.runner.held(11)
        server.runner.let(3)
        await server.runner.held(14)
        server.model.engine.runner_lost()  # while the result is on its way
        server.runner.open()
        events = await read_all(stream)
        tokens = [token for event in events for token in event.delta.token_ids]
        assert tokens == list((await undisturbed).token_ids)
        assert server.recorder.sequences["survivor"].times(Event.LOSE) == 1


async def test_requests_wait_while_a_runner_comes_back() -> None:
    queue = {"queue_requests_max": 2, "tenant_queue_share": 1.0}
    async with serving(scheduler=queue, make_runner=HeldRunner) as server:
        may_start(server).clear()
        lose(server)
        await server.recorder.until(lambda: server.model.state.value == "loading")
        model = (await server.models.GetModel(models_pb2.GetModelRequest())).model
        assert model.state == models_pb2.MODEL_STATE_LOADING
        waiting = [asyncio.ensure_future(server.generate()) for _ in range(2)]
        await server.recorder.taken(2)
        # The usual limits hold, and deadlines run.
        error = await error_of(server.generate())
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        waiting[0].cancel()
        await server.recorder.until(lambda: len(server.model.engine.scheduler.queue) == 1)
        assert server.model.state.value == "loading"
        may_start(server).set()
        assert (await waiting[1]).text


async def test_a_deadline_runs_while_a_runner_comes_back() -> None:
    async with serving(make_runner=HeldRunner) as server:
        may_start(server).clear()
        lose(server)
        await server.recorder.until(lambda: server.model.state.value == "loading")
        error = await error_of(server.inference.Generate(asked(), timeout=0.2))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        may_start(server).set()
        assert (await server.generate()).text


async def test_a_request_is_cancelled_while_its_runner_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(make_runner=HeldRunner) as server:
        stream = server.stream(request_id="leaver", max_tokens=4000)
        assert (await stream.read()).HasField("started")
        may_start(server).clear()
        lose(server)
        await server.recorder.until(lambda: server.model.state.value == "loading")
        with caplog.at_level(logging.INFO):
            stream.cancel()
            await server.recorder.state("leaver", State.CANCELLED)
        may_start(server).set()
        await server.recorder.until(lambda: server.model.state.value == "ready")
        assert server.slots_in_use == 0
        assert (await server.generate()).text


async def test_nothing_is_left_of_a_server_whose_runner_does_not_come_back(
    write_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_tiny_model(tmp_path / "model.gguf")
    runner = {"sequences": 1, "context_per_sequence": 512, "threads": 1}
    async with serving(path, model={"runner": runner}) as server:
        stream = server.stream(request_id="last", max_tokens=500)
        await server.recorder.produced("last", 1)
        path.unlink()
        killed = lose(server)
        await server.recorder.until(lambda: server.model.state.value in ("loading", "failed"))
        reading = asyncio.ensure_future(error_of(read_all(stream)))
        await server.app.stop(0)
        assert (await reading).code() is grpc.StatusCode.UNAVAILABLE
        assert not psutil.pid_exists(killed)
        assert server.model.runner_process_id is None
