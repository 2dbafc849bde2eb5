"""Callers that cancel at every moment there is: nothing of theirs is left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import grpc
import pytest
from running_server import RunningServer, asked, gated, serving

from llm_serving_engine.server.telemetry.logs import is_ours
from llm_serving_engine.v1 import inference_pb2_grpc

TOKENS = 6
# How many moments are tried, from before the RPC reaches the server to after its end.
MOMENTS = 120


async def nothing_left(server: RunningServer, tasks: int) -> None:
    """Wait until the server has forgotten everybody, and no task of theirs is left."""
    engine = server.model.loaded_engine
    assert engine is not None

    def left() -> bool:
        return bool(engine.scheduler.live() or engine._streams or len(asyncio.all_tasks()) > tasks)

    # Nothing tells when gRPC's own tasks have ended.
    while left():  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert server.slots_in_use == 0
    assert len(engine.scheduler.queue) == 0


async def ended(call: Any) -> None:
    with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
        if isinstance(call, grpc.aio.UnaryUnaryCall):
            await call
        else:
            async for _ in call:
                pass


def outcomes(caplog: pytest.LogCaptureFixture) -> set[str]:
    """Return the outcomes of all requests that the log tells of."""
    return {record.fields["outcome"] for record in caplog.records if hasattr(record, "fields")}


async def turns_until_done(reading: asyncio.Future[None]) -> int:
    """Count the turns of the event loop that an RPC takes when nobody cancels it.

    Server and client share the loop, so every moment of both is among these turns. How many
    there are differs from machine to machine: most are spent waiting for gRPC's threads.
    """
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    return turns


@pytest.mark.parametrize("events", range(TOKENS + 3))
async def test_after_so_many_events(events: int, caplog: pytest.LogCaptureFixture) -> None:
    async with gated(sequences=1) as server:
        server.runner.open()
        await server.generate()
        tasks = len(asyncio.all_tasks())
        stream = server.stream(max_tokens=TOKENS)
        for _ in range(events):
            await stream.read()
        stream.cancel()
        await stream.code()
        await nothing_left(server, tasks)
        assert (await server.generate()).text
    assert not [record for record in caplog.records if record.exc_info and is_ours(record)]


@pytest.mark.parametrize("method", ["Generate", "Stream"])
async def test_after_so_many_turns(method: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(model={"runner": {"sequences": 2}}) as server:
        await server.generate()
        tasks = len(asyncio.all_tasks())

        def begin() -> tuple[Any, asyncio.Future[None]]:
            call = getattr(server.inference, method)(asked(max_tokens=TOKENS))
            return call, asyncio.ensure_future(ended(call))

        whole = await turns_until_done(begin()[1])
        moment = 0
        # Some must be cancelled in their middle, and some come to their end before.
        while moment < MOMENTS or outcomes(caplog) != {"cancelled", "finished"}:
            call, reading = begin()
            for _ in range(2 * whole * (moment % MOMENTS) // MOMENTS):
                await asyncio.sleep(0)
            call.cancel()
            await reading
            moment += 1
        await nothing_left(server, tasks)
        page = server.app.metrics.render()[0].decode()
        assert (await server.generate()).text
    assert not [record for record in caplog.records if record.exc_info and is_ours(record)]
    assert 'outcome="failed"} 0.0' in page or 'outcome="failed"' not in page
    assert outcomes(caplog) == {"cancelled", "finished"}


async def test_connections_that_close_after_so_many_turns(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(model={"runner": {"sequences": 2}}) as server:
        await server.generate()
        tasks = len(asyncio.all_tasks())

        def begin() -> tuple[grpc.aio.Channel, asyncio.Future[None]]:
            channel = server.connect()
            stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
            return channel, asyncio.ensure_future(ended(stub.Stream(asked(max_tokens=TOKENS))))

        channel, reading = begin()
        whole = await turns_until_done(reading)
        await channel.close()
        for moment in range(0, MOMENTS, 3):
            channel, reading = begin()
            for _ in range(2 * whole * moment // MOMENTS):
                await asyncio.sleep(0)
            await channel.close()
            await reading
        await nothing_left(server, tasks)
        assert (await server.generate()).text
    assert not [record for record in caplog.records if record.exc_info and is_ours(record)]
