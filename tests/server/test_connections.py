"""Many connections: idle ones cost little, and beyond the limit they are turned away."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
from raw_connection import RawConnection, framed, raw_connection
from running_server import asked, gated, serving

from llm_serving_engine.server.config import GrpcConfig

OK = grpc.StatusCode.OK.value[0]


async def hello(connection: RawConnection) -> bool:
    """Whether the server answers at all, with its settings."""
    try:
        await connection.receive()
    except OSError:
        return False
    return not connection.closed


async def test_many_connections_that_say_nothing() -> None:
    async with serving() as server, contextlib.AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(raw_connection(server.address)) for _ in range(200)
        ]
        assert all(await asyncio.gather(*map(hello, opened)))
        assert (await server.generate()).text
        # And none was forgotten.
        for connection in opened[::40]:
            answer = await connection.answer(await connection.call(framed(asked())))
            assert answer.status == OK


async def test_more_connections_than_there_may_be() -> None:
    async with (
        serving(grpc={"port": 0, "connections_max": 20}) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        assert (await server.generate()).text
        opened = [
            await stack.enter_async_context(raw_connection(server.address)) for _ in range(40)
        ]
        answered = await asyncio.gather(*map(hello, opened))
        # One of the 20 is the channel that has asked already.
        assert answered.count(True) == 19
        assert (await server.generate()).text


async def test_a_place_that_becomes_free() -> None:
    async with serving(grpc={"port": 0, "connections_max": 1}) as server:
        async with raw_connection(server.address) as first:
            assert await hello(first)
            async with raw_connection(server.address) as second:
                assert not await hello(second)
        # The client tries again by itself until the server has seen that the first is gone.
        assert (await server.inference.Generate(asked(), wait_for_ready=True)).text


async def test_more_streams_than_a_connection_may_have() -> None:
    settings = {"port": 0, "streams_per_connection_max": 2}
    async with gated(grpc=settings) as server, raw_connection(server.address) as connection:
        # Sent before the limit is known: a client that knows it holds back what is too much.
        first, second, third = [await connection.call(framed(asked())) for _ in range(3)]
        refused = await connection.answer(third)
        assert refused.headers == {}
        assert connection.http.remote_settings.max_concurrent_streams == 2
        server.runner.open()
        for number in (first, second):
            assert (await connection.answer(number)).status == OK
        assert len(server.recorder.states) == 2


async def test_limits_beyond_what_grpc_can_count() -> None:
    seconds = (name for name in GrpcConfig.model_fields if name.endswith("_seconds"))
    limits = (name for name in GrpcConfig.model_fields if name.endswith("_max"))
    boundless = {**dict.fromkeys(seconds, 1e308), **dict.fromkeys(limits, 10**18)}
    async with serving(grpc={"port": 0, **boundless}) as server:
        assert (await server.generate()).text
