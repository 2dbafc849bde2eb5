"""Limits that are reached and deadlines that pass, as a client sees it."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from running_server import (
    asked,
    detail,
    error_of,
    gated,
    read_all,
)

from llm_serving_engine.scheduler.errors import DeadlinePassed, LimitReached
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.step import Open
from llm_serving_engine.v1 import inference_pb2

SERVICE = "llm_serving_engine.v1.InferenceService"

FULL = {"queue_requests_max": 1, "tenant_queue_share": 1.0}


def message(error: grpc.aio.AioRpcError) -> str:
    return error.details() or ""


# RESOURCE_EXHAUSTED


async def exhausted(call: Any, subject: str) -> float:
    """Check a refusal; the delay that it asks for, in seconds."""
    error = await error_of(call)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    (quota,) = detail(error, error_details_pb2.QuotaFailure).violations
    assert quota.subject == subject
    assert quota.description == message(error)
    delay = detail(error, error_details_pb2.RetryInfo).retry_delay
    trailers = dict(error.trailing_metadata())
    milliseconds = int(trailers["grpc-retry-pushback-ms"])
    assert delay.ToNanoseconds() > 0
    assert milliseconds - 1 < delay.ToNanoseconds() / 1e6 <= milliseconds
    return milliseconds / 1000


async def test_the_queue_is_full_of_requests() -> None:
    async with gated(
        sequences=1, scheduler={"queue_requests_max": 3, "tenant_queue_share": 1.0}
    ) as server:
        calls = [asyncio.ensure_future(server.generate(request_id=str(i))) for i in range(4)]
        await server.recorder.until(lambda: len(server.recorder.states) == 4)
        for _ in range(2):
            await exhausted(server.generate(), "queue.requests")
            await exhausted(server.stream(priority=1).read(), "queue.requests")
        server.runner.open()
        await asyncio.gather(*calls)
        await server.generate()


async def test_a_higher_class_finds_room_in_a_full_queue() -> None:
    scheduler = {"queue_requests_max": 2, "tenant_queue_share": 1.0}
    async with gated(sequences=1, scheduler=scheduler) as server:
        running = asyncio.ensure_future(server.generate(request_id="running", priority=4))
        await server.runner.held(1)
        low = [asyncio.ensure_future(server.generate(request_id=n, priority=1)) for n in "ab"]
        await server.recorder.until(lambda: len(server.recorder.states) == 3)
        urgent = asyncio.ensure_future(server.generate(request_id="urgent", priority=4))
        await exhausted(low[1], "queue.requests")
        server.runner.open()
        await asyncio.gather(running, low[0], urgent)


async def test_the_queue_is_full_of_tokens() -> None:
    async with gated(
        sequences=1, scheduler={"queue_tokens_max": 100, "tenant_queue_share": 1.0}
    ) as server:
        running = asyncio.ensure_future(server.generate("x" * 10, max_tokens=90))
        await server.runner.held(1)
        waiting = asyncio.ensure_future(server.generate("x" * 10, max_tokens=80))
        await server.recorder.until(lambda: len(server.recorder.states) == 2)
        await exhausted(server.generate("x" * 5, max_tokens=6), "queue.tokens")
        last = asyncio.ensure_future(server.generate("x" * 5, max_tokens=5))
        await server.recorder.until(lambda: len(server.recorder.states) == 3)
        await exhausted(server.generate("x", max_tokens=1), "queue.tokens")
        server.runner.open()
        await asyncio.gather(running, waiting, last)


async def test_a_client_that_obeys_the_pushback() -> None:
    policy = {
        "maxAttempts": 3,
        # Without the server's word, it would come back after the test has failed.
        "initialBackoff": "600s",
        "maxBackoff": "600s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
    }
    service = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
    async with gated(sequences=1, scheduler=FULL) as server:
        recorder = server.recorder
        calls = await server.fill()
        options = (("grpc.service_config", json.dumps(service)), ("grpc.enable_retries", 1))
        async with server.connect(*options) as channel:
            generate = channel.unary_unary(
                f"/{SERVICE}/Generate",
                request_serializer=inference_pb2.GenerateRequest.SerializeToString,
                response_deserializer=inference_pb2.GenerateResponse.FromString,
            )
            patient = asyncio.ensure_future(generate(asked(request_id="patient")))
            await recorder.until(lambda: len(recorder.refusals) == 1)
            server.runner.open()
            assert (await patient).text
        await asyncio.gather(*calls)
        assert isinstance(recorder.refusals[0], LimitReached)


async def test_a_reader_that_lags_behind() -> None:
    async with gated(sequences=1, scheduler={"stream_buffer_tokens_max": 10}) as server:
        stream = server.model.engine.submit(Request("lazy", (1, 2, 3), max_tokens=1000))
        server.runner.open()
        sequence = await server.recorder.state("lazy", State.FAILED)
        assert isinstance(sequence.error, LimitReached)
        assert sequence.error.subject == "stream.buffer_tokens"
        assert stream.buffered == 11
        assert server.slots_in_use == 0


# DEADLINE_EXCEEDED


async def test_a_deadline_that_had_passed_on_arrival() -> None:
    async with gated() as server:
        error = await error_of(server.inference.Generate(asked(), timeout=0))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        server.runner.open()
        await server.generate()


async def test_a_deadline_in_the_queue(caplog: pytest.LogCaptureFixture) -> None:
    async with gated(sequences=1) as server:
        running = asyncio.ensure_future(server.generate(request_id="running"))
        await server.runner.held(1)
        late = server.inference.Generate(asked(request_id="late"), timeout=2)
        with caplog.at_level(logging.INFO):
            error = await error_of(late)
            sequence = await server.recorder.state("late", State.EXPIRED)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert isinstance(sequence.error, DeadlinePassed)
        assert sequence.error.reason == DeadlinePassed.QUEUE_TIMEOUT
        server.runner.open()
        await running
        assert server.recorder.states["late"] == [State.WAITING, State.EXPIRED]
        opened = [o for s in server.runner.begun for o in s.operations if isinstance(o, Open)]
        assert len(opened) == 1
        page = server.app.metrics.render()[0].decode()
        assert 'requests_total{model="scripted",outcome="expired"} 1.0' in page


async def test_a_deadline_while_it_runs() -> None:
    async with gated(sequences=1) as server:
        stream = server.inference.Stream(asked(request_id="late", max_tokens=100), timeout=2)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_all(stream)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        sequence = await server.recorder.state("late", State.EXPIRED)
        assert isinstance(sequence.error, DeadlinePassed)
        assert sequence.error.reason == DeadlinePassed.RUNNING_TIMEOUT
        assert server.slots_in_use == 0
        server.runner.open()
        await server.generate()
