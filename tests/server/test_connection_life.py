"""How long connections live: limits that gRPC's library keeps."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import h2.events
import pytest
from raw_connection import RawConnection, raw_connection

from llm_serving_engine.server import grpc_listener
from llm_serving_engine.server.config import GrpcConfig
from llm_serving_engine.server.grpc_listener import listen, make_server

PATH = "/test/Wait"


async def wait(requests: object, context: object) -> None:
    """Never answer."""
    await asyncio.get_running_loop().create_future()


@contextlib.asynccontextmanager
async def listening(**settings: float) -> AsyncIterator[str]:
    """The address of a server with times that are too short to be configured."""
    config = GrpcConfig.model_construct(**{**GrpcConfig(port=0).model_dump(), **settings})
    server = make_server(config, string_bytes_max=1000)
    handler: Any = grpc.stream_stream_rpc_method_handler(wait)
    server.add_registered_method_handlers("test", {"Wait": handler})
    (address,) = listen(server, config)
    await server.start()
    try:
        yield str(address)
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def connected(**settings: float) -> AsyncIterator[RawConnection]:
    """A connection to such a server, with a call that waits."""
    async with listening(**settings) as address, raw_connection(address) as connection:
        await connection.call(None, path=PATH.encode(), end=False)
        yield connection


# Far below the minute that gRPC's library waits unless it is told otherwise.
@pytest.mark.timeout(30)
async def test_a_client_that_does_not_answer_pings() -> None:
    times = {"keepalive_seconds": 0.05, "keepalive_timeout_seconds": 0.05}
    # It may be cut off while it still sends.
    with contextlib.suppress(ConnectionError):
        async with connected(**times) as connection:
            while await connection.read():
                pass


async def test_a_client_that_answers_pings_stays() -> None:
    async with connected(keepalive_seconds=0.05, keepalive_timeout_seconds=60.0) as connection:
        pings = 0
        while pings < 3:
            events = connection.http.receive_data(await connection.read())
            pings += sum(isinstance(event, h2.events.PingReceived) for event in events)
            await connection.flush()


async def test_a_client_may_ping_while_its_call_waits() -> None:
    async with connected(ping_interval_min_seconds=0.0) as connection:
        answered = 0
        for _ in range(10):
            connection.http.ping(b"8 bytes.")
            await connection.flush()
        while answered < 10:
            events = connection.http.receive_data(await connection.read())
            answered += sum(isinstance(event, h2.events.PingAckReceived) for event in events)


async def test_a_client_that_pings_too_often_is_cut_off() -> None:
    async with connected(ping_interval_min_seconds=3600.0) as connection:
        for _ in range(10):
            connection.http.ping(b"8 bytes.")
        await connection.flush()
        heard = b""
        while data := await connection.read():
            heard += data
        assert b"too_many_pings" in heard


@pytest.mark.parametrize(
    "name", [name for name, _ in grpc_listener._options(GrpcConfig(connection_age_max_seconds=1))]
)
def test_the_library_knows_each_option(name: str) -> None:
    # It says nothing of those that it does not know.
    library = importlib.import_module("grpc._cython.cygrpc").__file__
    assert name.encode() in Path(str(library)).read_bytes()


async def test_calls_of_old_connections_are_ended() -> None:
    ages = {"connection_age_max_seconds": 0.05, "connection_age_grace_seconds": 0.05}
    async with listening(**ages) as address, grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.stream_stream(PATH)()
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
