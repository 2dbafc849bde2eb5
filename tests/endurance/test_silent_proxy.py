"""A proxy that cuts connections after 10 s without a byte, and a request that waits for 30 s."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import grpc
from running_server import asked, error_of, gated, read_all

from llm_serving_engine.v1 import inference_pb2_grpc

SILENCE_SECONDS = 10.0
WAIT_SECONDS = 30.0


class Proxy:
    """Hands bytes on in both directions, and cuts connections whose server side is silent.

    Attributes:
        cuts: Connections that were cut.
    """

    def __init__(self, port: int) -> None:
        self.cuts = 0
        self._upstream = port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand one connection on."""
        answers, questions = await asyncio.open_connection("127.0.0.1", self._upstream)
        there = asyncio.create_task(self._copy(reader, questions, None))
        back = asyncio.create_task(self._copy(answers, writer, SILENCE_SECONDS))
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        for task in (there, back):
            task.cancel()
        for side in (writer, questions):
            side.close()

    async def _copy(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, seconds: float | None
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                try:
                    data = await asyncio.wait_for(source.read(65536), seconds)
                except asyncio.TimeoutError:
                    self.cuts += 1
                    return
                if not data:
                    return
                sink.write(data)
                await sink.drain()


@contextlib.asynccontextmanager
async def through_proxy(port: int) -> AsyncIterator[tuple[Proxy, grpc.aio.Channel]]:
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    # The client itself sends no pings: what keeps the connection alive is the server.
    async with grpc.aio.insecure_channel(address) as channel:
        yield proxy, channel
    server.close()


async def test_a_request_that_waits_longer_than_a_proxy() -> None:
    async with (
        gated(sequences=1) as server,
        through_proxy(server.app.grpc_port) as (proxy, channel),
    ):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        running = server.stream()
        await server.runner.held(1)
        began = time.perf_counter()
        stream, answer = stub.Stream(asked()), stub.Generate(asked())
        asyncio.get_running_loop().call_later(WAIT_SECONDS, server.runner.open)
        await stream.initial_metadata()
        headers = time.perf_counter() - began
        events = await read_all(stream)
        first = time.perf_counter() - began
        assert events[-1].finished.usage.completion_tokens == 8
        assert (await answer).usage.completion_tokens == 8
        await read_all(running)
        print(f"\nheaders after {headers:.1f} s, output after {first:.1f} s, cuts: {proxy.cuts}")
        assert proxy.cuts == 0
        assert first >= WAIT_SECONDS > SILENCE_SECONDS > headers


async def test_the_proxy_cuts_what_is_silent() -> None:
    settings = {"port": 0, "headers_seconds": 3600, "keepalive_seconds": 3600}
    async with (
        gated(sequences=1, grpc=settings) as server,
        through_proxy(server.app.grpc_port) as (proxy, channel),
    ):
        running = server.stream()
        await server.runner.held(1)
        stream = inference_pb2_grpc.InferenceServiceStub(channel).Stream(asked())
        error = await error_of(read_all(stream))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert proxy.cuts == 1
        server.runner.open()
        await read_all(running)
