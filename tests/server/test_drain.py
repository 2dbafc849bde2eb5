"""A server that is told to stop: what balancers see, and what becomes of requests."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from http_pages import get
from running_server import HTTP, RunningServer, detail, error_of, gated, read_all

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
LONG = 3600.0


async def watched(server: RunningServer) -> Any:
    watch: Any = server.health.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == SERVING
    return watch


async def test_while_balancers_take_notice_requests_are_taken() -> None:
    async with gated(drain_notice_seconds=LONG, http=HTTP) as server:
        watch = await watched(server)
        stopping = asyncio.create_task(server.app.stop())
        assert (await watch.read()).status == NOT_SERVING
        assert (await get(server, "/readyz")).status_code == 503
        assert (await get(server, "/livez")).status_code == 200
        server.runner.open()
        assert (await server.generate()).text
        async with server.connect() as late:
            checked = await health_pb2_grpc.HealthStub(late).Check(health_pb2.HealthCheckRequest())
            assert checked.status == NOT_SERVING
        # The model's own changes do not make it look ready again.
        server.app._model_changed(server.model)
        assert not server.app.health.serving()
        await server.app.hurry()
        await stopping
        assert await watch.read() is grpc.aio.EOF


async def test_then_new_requests_are_refused_and_streams_finish() -> None:
    async with gated(drain_seconds=LONG, http=HTTP) as server:
        stream = server.stream(max_tokens=20)
        server.runner.let(2)
        assert (await stream.read()).HasField("started")
        stopping = asyncio.create_task(server.app.stop())
        await server.recorder.until(lambda: server.model.state.value == "draining")
        error = await error_of(server.generate())
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        # By then this server has gone, and another can be in its place.
        delay = detail(error, error_details_pb2.RetryInfo).retry_delay.seconds
        assert LONG / 2 < delay < LONG * 2
        server.runner.open()
        events = await read_all(stream)
        assert events[-1].finished.usage.completion_tokens == 20
        await stopping


async def test_clients_are_told_to_go_elsewhere() -> None:
    async with gated(drain_notice_seconds=0.001, drain_seconds=LONG) as server:
        stream = server.stream(max_tokens=20)
        server.runner.let(2)
        assert (await stream.read()).HasField("started")
        assert server.channel.get_state() is grpc.ChannelConnectivity.READY
        stopping = asyncio.create_task(server.app.stop())
        # GOAWAY: the channel gives the connection up, the stream goes on in it.
        await server.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        server.runner.open()
        assert (await read_all(stream))[-1].HasField("finished")
        await stopping


async def test_streams_that_outlast_the_drain_are_ended() -> None:
    async with gated(drain_seconds=0.01) as server:
        stream = server.stream(max_tokens=20)
        server.runner.let(1)
        assert (await stream.read()).HasField("started")
        stopping = asyncio.create_task(server.app.stop())
        error = await error_of(read_all(stream))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        server.runner.open()
        await stopping


async def test_without_a_model_no_notice_is_given() -> None:
    async with gated(drain_notice_seconds=LONG, load=False) as server:
        await server.app.stop()
