"""Headers of requests that wait: load balancers cut what is silent."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from running_server import asked, error_of, gated, read_all

from llm_serving_engine.v1 import inference_pb2

GENERATE = "/llm_serving_engine.v1.InferenceService/Generate"

EARLY = {"port": 0, "headers_seconds": 0.001}
LATE = {"port": 0, "headers_seconds": 3600}

FULL = {"queue_requests_max": 1, "tenant_queue_share": 1.0}


async def test_while_a_stream_waits_in_the_queue() -> None:
    async with gated(sequences=1, grpc=EARLY) as server:
        running = server.stream()
        await server.runner.held(1)
        waiting = server.stream()
        await waiting.initial_metadata()
        server.runner.open()
        assert (await read_all(running))[-1].HasField("finished")
        events = await read_all(waiting)
        assert events[0].HasField("started")
        assert events[-1].HasField("finished")


async def test_while_an_answer_is_computed() -> None:
    async with gated(grpc=EARLY) as server:
        # As a stream: clients of a unary method are told of headers with the message.
        method: Any = server.channel.unary_stream(GENERATE)
        call = method(asked().SerializeToString())
        await call.initial_metadata()
        server.runner.open()
        answer = inference_pb2.GenerateResponse.FromString(await call.read())
        assert answer.usage.completion_tokens == 8
        assert await call.code() is grpc.StatusCode.OK


async def test_a_stream_that_fails_after_its_headers() -> None:
    async with gated(sequences=1, grpc=EARLY, scheduler=FULL) as server:
        running, waiting = await server.fill()
        refused = server.stream()
        # A refusal comes without headers, so that clients try again by themselves.
        error = await error_of(read_all(refused))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        server.runner.open()
        await asyncio.gather(running, waiting)


async def test_a_client_that_leaves_before_the_headers() -> None:
    async with gated(sequences=1, grpc=LATE) as server:
        running = server.stream()
        await server.runner.held(1)
        waiting = server.stream(request_id="gone")
        await server.recorder.taken(2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting.read()
        await server.recorder.until(lambda: server.recorder.states["gone"][-1].ended)
        server.runner.open()
        await read_all(running)
        assert server.slots_in_use == 0
