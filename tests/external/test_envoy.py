"""deploy/envoy/envoy.yaml under a real Envoy: long streams, retries, deadlines, draining."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy_proxy import CONFIG, proxy
from grpc_health.v1 import health_pb2, health_pb2_grpc

from llm_serving_engine.v1 import inference_pb2, inference_pb2_grpc

Request = inference_pb2.GenerateRequest
Response = inference_pb2.StreamResponse
Context = Any
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Upstream(inference_pb2_grpc.InferenceServiceServicer, health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """A server that does what a test wants to see through Envoy."""

    def __init__(self) -> None:
        self.health = SERVING
        self.calls = 0
        self.refuses: grpc.StatusCode | None = None
        self.breaks_after = -1
        self.time_remaining: float | None = None
        self.may_go_on = asyncio.Event()
        self.ended = asyncio.Event()
        self.address = ""

    async def Check(self, request: Any, context: Context) -> Any:  # noqa: N802
        return health_pb2.HealthCheckResponse(status=self.health)

    async def Stream(  # type: ignore[override]  # noqa: N802
        self, request: Request, context: Context
    ) -> None:
        self.calls += 1
        self.time_remaining = context.time_remaining()
        try:
            if self.refuses:
                context.set_trailing_metadata((("grpc-retry-pushback-ms", "1500"),))
                await context.abort(self.refuses, "not now")
            for number in range(request.max_tokens):
                if number == self.breaks_after:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the runner failed")
                if number == 1:
                    await self.may_go_on.wait()
                await context.write(Response(delta=Response.Delta(text=f"{number} ")))
        finally:
            self.ended.set()


@asynccontextmanager
async def serving(upstream: Upstream) -> AsyncIterator[Upstream]:
    """Run an upstream on a port of its own."""
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(upstream, server)
    health_pb2_grpc.add_HealthServicer_to_server(upstream, server)
    upstream.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield upstream
    await server.stop(None)


@asynccontextmanager
async def through(envoy: Path, *addresses: str) -> AsyncIterator[Any]:
    """The method Stream, through Envoy. The client itself retries nothing."""
    with proxy(envoy, addresses) as address:
        options = [("grpc.enable_retries", 0)]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            await channel.channel_ready()
            yield inference_pb2_grpc.InferenceServiceStub(channel).Stream


async def outcome(call: Any) -> tuple[int, grpc.StatusCode]:
    """How many messages came, and the status."""
    messages = 0
    with suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            messages += 1
    return messages, await call.code()


def test_the_configuration_is_valid(envoy: Path) -> None:
    command = [str(envoy), "--mode", "validate", "-c", str(CONFIG)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_messages_come_one_by_one(envoy: Path) -> None:
    async with serving(Upstream()) as upstream, through(envoy, upstream.address) as stream:
        call = stream(Request(max_tokens=3))
        # The server writes the second only when the first has been seen.
        assert (await call.read()).delta.text == "0 "
        upstream.may_go_on.set()
        assert await outcome(call) == (2, grpc.StatusCode.OK)


async def test_a_refusal_is_tried_on_another_server(envoy: Path) -> None:
    async with serving(Upstream()) as full, serving(Upstream()) as free:
        full.refuses = grpc.StatusCode.UNAVAILABLE
        free.may_go_on.set()
        async with through(envoy, full.address, free.address) as stream:
            for _ in range(20):
                assert await outcome(stream(Request(max_tokens=2))) == (2, grpc.StatusCode.OK)
    assert free.calls == 20
    assert full.calls > 0


async def test_pushback_is_the_callers_to_read(envoy: Path) -> None:
    async with serving(Upstream()) as upstream, through(envoy, upstream.address) as stream:
        upstream.refuses = grpc.StatusCode.RESOURCE_EXHAUSTED
        call = stream(Request(max_tokens=2))
        assert await outcome(call) == (0, grpc.StatusCode.RESOURCE_EXHAUSTED)
        # Where no message came first, the trailers are the only headers that there are.
        metadata = [*(await call.initial_metadata()), *(await call.trailing_metadata())]
        assert ("grpc-retry-pushback-ms", "1500") in metadata
        assert upstream.calls == 1


async def test_nothing_is_tried_again_after_output(envoy: Path) -> None:
    async with serving(Upstream()) as upstream, through(envoy, upstream.address) as stream:
        upstream.breaks_after = 1
        assert await outcome(stream(Request(max_tokens=3))) == (1, grpc.StatusCode.UNAVAILABLE)
        assert upstream.calls == 1


@pytest.mark.parametrize("timeout", [None, 7200.0])
async def test_the_callers_deadline_is_the_only_one(envoy: Path, timeout: float | None) -> None:
    async with serving(Upstream()) as upstream, through(envoy, upstream.address) as stream:
        upstream.may_go_on.set()
        call = stream(Request(max_tokens=1), timeout=timeout)
        assert await outcome(call) == (1, grpc.StatusCode.OK)
        if timeout is None:
            assert upstream.time_remaining is None
        else:
            assert upstream.time_remaining is not None
            # On the wire, a long time has three digits.
            assert upstream.time_remaining == pytest.approx(timeout, rel=0.01)


async def test_a_caller_that_goes_is_heard_of(envoy: Path) -> None:
    async with serving(Upstream()) as upstream, through(envoy, upstream.address) as stream:
        call = stream(Request(max_tokens=3))
        await call.read()
        call.cancel()
        await upstream.ended.wait()


async def test_a_server_that_drains_keeps_its_streams(envoy: Path) -> None:
    async with serving(Upstream()) as upstream, through(envoy, upstream.address) as stream:
        running = stream(Request(max_tokens=3))
        await running.read()
        upstream.health = NOT_SERVING
        # Until Envoy has asked: then new streams are refused, by Envoy itself.
        status = grpc.StatusCode.OK
        while status is not grpc.StatusCode.UNAVAILABLE:
            calls = upstream.calls
            new = stream(Request(max_tokens=1))
            _, status = await outcome(new)
        assert upstream.calls == calls
        upstream.may_go_on.set()
        assert await outcome(running) == (2, grpc.StatusCode.OK)


async def test_the_server_itself_streams_through_it(envoy: Path, server_address: str) -> None:
    request = Request(prompt="Once upon a time", max_tokens=16)
    request.sampling.temperature = 0
    async with through(envoy, server_address) as stream:
        events = [event async for event in stream(request)]
    async with grpc.aio.insecure_channel(server_address) as channel:
        answer = await inference_pb2_grpc.InferenceServiceStub(channel).Generate(request)
    assert [event.WhichOneof("event") for event in (events[0], events[-1])] == [
        "started",
        "finished",
    ]
    assert "".join(event.delta.text for event in events) == answer.text
