"""Callers that stop reading: what waits for them is bounded, in tokens and in time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpc
import pytest
from raw_connection import SERVICE, framed, raw_connection
from running_server import asked, gated

from llm_serving_engine.scheduler.errors import InvalidField, LimitReached, RequestError
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.server.config import GrpcConfig
from llm_serving_engine.server.rpc_timeouts import RpcTimeouts

RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
STREAM = SERVICE + b"Stream"
# With 20 alternatives a token takes 350 bytes: so many of them fill the 64 KiB that a
# caller is sent unread.
LAZY = asked(request_id="lazy", max_tokens=3000, top_logprobs=20)
STEPS = 400


async def test_a_stream_that_is_not_read_for_too_long() -> None:
    grpc_config = {"port": 0, "write_timeout_seconds": 1}
    async with gated(grpc=grpc_config) as server, raw_connection(server.address) as connection:
        # It gets one message, at its end: none of its own can be late on a slow machine.
        other = asyncio.ensure_future(server.generate(request_id="other", max_tokens=STEPS + 100))
        await server.runner.held(1)
        number = await connection.call(framed(LAZY), path=STREAM)
        await server.recorder.until(lambda: "lazy" in server.recorder.states)
        server.runner.let(STEPS)
        sequence = await server.recorder.state("lazy", State.FAILED)
        # Its slot is free at once, though its caller does not know yet.
        assert server.slots_in_use == 1
        assert isinstance(sequence.error, LimitReached)
        assert sequence.error.subject == "grpc.write_timeout_seconds"

        server.runner.open()
        assert (await other).usage.completion_tokens == STEPS + 100
        # When it reads at last, it finds what was sent, and why no more was.
        await connection.open_windows(number)
        answer = await connection.answer(number)
    assert answer.status == RESOURCE_EXHAUSTED
    assert answer.message == "the stream was not read for 1 s"
    assert int(answer.headers[b"grpc-retry-pushback-ms"]) > 0
    assert len(answer.data) > 65535


async def test_a_stream_that_is_too_many_tokens_behind() -> None:
    scheduler = {"stream_buffer_tokens_max": 10}
    async with (
        gated(scheduler=scheduler) as server,
        raw_connection(server.address) as connection,
    ):
        other = server.stream(request_id="other", max_tokens=3000)
        assert (await other.read()).HasField("started")
        number = await connection.call(framed(LAZY), path=STREAM)
        await server.recorder.until(lambda: "lazy" in server.recorder.states)
        server.runner.let()  # the prompt of the lazy one takes a step of its own
        # A step only when the other has read the token before it: that one is never behind.
        while server.recorder.states["lazy"][-1] is not State.FAILED:
            server.runner.let()
            assert (await other.read()).HasField("delta")
        sequence = server.recorder.sequences["lazy"]
        assert isinstance(sequence.error, LimitReached)
        assert sequence.error.subject == "stream.buffer_tokens"
        assert server.slots_in_use == 1
        await connection.open_windows(number)
        answer = await connection.answer(number)
        assert answer.status == RESOURCE_EXHAUSTED
        assert answer.message == "the stream was not read: 11 tokens wait, the limit is 10"
        server.runner.let()
        assert (await other.read()).HasField("delta")


async def test_as_many_tokens_behind_as_may_be() -> None:
    async with gated(scheduler={"stream_buffer_tokens_max": 10}) as server:
        stream = server.model.engine.submit(Request("lazy", (1, 2, 3), max_tokens=1000))
        server.runner.let(10)
        await server.runner.held(11)
        assert stream.buffered == 10
        assert stream.sequence.state is State.DECODE
        server.runner.let(1)
        await server.recorder.state("lazy", State.FAILED)
        assert stream.buffered == 11


async def test_a_watch_that_is_not_read() -> None:
    """The other streams are no different."""
    written: list[object] = []

    class Stopped:
        async def write(self, message: object) -> None:
            written.append(message)
            await asyncio.get_running_loop().create_future()

    timeouts = RpcTimeouts(GrpcConfig(write_timeout_seconds=0.01))
    with pytest.raises(LimitReached, match="not read for"):
        await timeouts.writer(Stopped()).write("state")  # type: ignore[arg-type]
    assert written == ["state"]


# The time, to the edge: with a clock that only the test moves.


class Clock(asyncio.SelectorEventLoop):
    """An event loop that lives in a time of its own."""

    now = 0.0

    def time(self) -> float:
        return self.now

    async def move(self, seconds: float) -> None:
        self.now += seconds
        for _ in range(5):
            await asyncio.sleep(0)


class Peer:
    """Stands for a context whose reads and writes are done when the test says so."""

    def __init__(self, loop: Clock) -> None:
        self.loop = loop
        self.done = loop.create_future()

    async def read(self) -> object:
        return await self.done

    async def write(self, message: object) -> None:
        await self.done


def on_clock(scenario: Callable[[Clock, Peer], Coroutine[Any, Any, None]]) -> None:
    loop = Clock()
    try:
        loop.run_until_complete(scenario(loop, Peer(loop)))
    finally:
        loop.close()


async def write(timeouts: RpcTimeouts, peer: Any) -> None:
    with timeouts.writer(peer) as writer:
        await writer.write("x")


Wait = Callable[[RpcTimeouts, Any], Awaitable[Any]]
WAITS: list[tuple[Wait, type[RequestError]]] = [
    (lambda timeouts, peer: timeouts.read(peer), InvalidField),
    (write, LimitReached),
]
TIMEOUTS = RpcTimeouts(GrpcConfig(request_timeout_seconds=10, write_timeout_seconds=10))


@pytest.mark.parametrize(("wait", "error"), WAITS, ids=["read", "write"])
def test_just_too_late(wait: Wait, error: type[RequestError]) -> None:
    async def scenario(loop: Clock, peer: Peer) -> None:
        waiting = asyncio.ensure_future(wait(TIMEOUTS, peer))
        await loop.move(0)
        await loop.move(9.99)
        assert not waiting.done()
        await loop.move(0.02)
        assert waiting.done()
        assert isinstance(waiting.exception(), error)
        assert peer.done.cancelled()

    on_clock(scenario)


def test_each_message_has_its_own_time() -> None:
    async def scenario(loop: Clock, peer: Peer) -> None:
        async def write_two() -> None:
            with TIMEOUTS.writer(peer) as writer:  # type: ignore[arg-type]
                await writer.write("first")
                await writer.write("second")

        waiting = asyncio.ensure_future(write_two())
        await loop.move(0)
        await loop.move(6)
        first, peer.done = peer.done, loop.create_future()
        first.set_result(None)
        await loop.move(0)
        await loop.move(9.99)  # past the first's end, and within the second's
        assert not waiting.done()
        await loop.move(0.02)
        assert isinstance(waiting.exception(), LimitReached)

    on_clock(scenario)


@pytest.mark.parametrize(("wait", "error"), WAITS, ids=["read", "write"])
def test_just_in_time(wait: Wait, error: type[RequestError]) -> None:
    async def scenario(loop: Clock, peer: Peer) -> None:
        waiting = asyncio.ensure_future(wait(TIMEOUTS, peer))
        await loop.move(0)
        await loop.move(9.99)
        peer.done.set_result("message")
        await waiting
        # And what comes after is not interrupted by a timer of before.
        after = asyncio.ensure_future(asyncio.sleep(100))
        await loop.move(50)
        assert not after.done()
        after.cancel()

    on_clock(scenario)


@pytest.mark.parametrize(("wait", "error"), WAITS, ids=["read", "write"])
def test_a_caller_that_leaves_meanwhile(wait: Wait, error: type[RequestError]) -> None:
    async def scenario(loop: Clock, peer: Peer) -> None:
        waiting = asyncio.ensure_future(wait(TIMEOUTS, peer))
        await loop.move(5)
        waiting.cancel()
        await loop.move(0)
        assert waiting.cancelled()

    on_clock(scenario)
