"""Callers that go away, in every state of their requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from running_server import RunningServer, asked, gated

from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.step import Open, Step
from llm_serving_engine.v1 import inference_pb2_grpc

Leave = Callable[["Caller"], Any]


class Caller:
    """Somebody with a connection of their own."""

    def __init__(self, server: RunningServer, method: str) -> None:
        self.channel = server.connect()
        stub: Any = inference_pb2_grpc.InferenceServiceStub(self.channel)
        request = asked("p" * 200, request_id="leaver", max_tokens=3000)
        self.call = getattr(stub, method)(request)
        # The call is made when somebody waits for it.
        self.reading = asyncio.ensure_future(self._read())

    async def cancel(self) -> None:
        self.call.cancel()
        await self.reading
        await self.channel.close()

    async def disconnect(self) -> None:
        await self.channel.close()
        await self.reading

    async def _read(self) -> None:
        try:
            if isinstance(self.call, grpc.aio.UnaryUnaryCall):
                await self.call
            else:
                async for _ in self.call:
                    pass
        except (asyncio.CancelledError, grpc.aio.AioRpcError):
            return
        raise AssertionError("the call succeeded")


def slots_of(step: Step) -> set[int]:
    return {run.slot for run in step.runs}


@pytest.mark.parametrize("method", ["Generate", "Stream"])
@pytest.mark.parametrize("leave", [Caller.cancel, Caller.disconnect])
@pytest.mark.parametrize("state", [State.WAITING, State.PREFILL, State.DECODE])
async def test_a_caller_that_leaves(
    state: State, leave: Leave, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Prompts take several steps: prefill can be left in its middle.
    async with gated(sequences=1, prefill_chunk=32) as server:
        recorder, runner = server.recorder, server.runner
        first = None
        if state is State.WAITING:
            first = asyncio.ensure_future(server.generate(request_id="first"))
            await runner.held(1)
        caller = Caller(server, method)
        await recorder.until(lambda: "leaver" in recorder.states)
        if state is State.PREFILL:
            runner.let(1)
            await runner.held(2)
        elif state is State.DECODE:
            runner.let(6)
            await runner.held(7)
        sequence = await recorder.state("leaver", state)
        begun = len(runner.begun)

        with caplog.at_level(logging.INFO):
            await leave(caller)
            await recorder.state("leaver", State.CANCELLED)
        # It is gone before the step that is under way has ended.
        assert len(runner.begun) == begun
        assert server.slots_in_use == (1 if first else 0)
        assert sequence.slot is None

        runner.open()
        answer = await server.generate("another", request_id="next")
        assert answer.usage.completion_tokens == 8
        if first is not None:
            await first
        # What came after was done for others only.
        produced = sum(len(step.runs) for step in runner.begun[begun:])
        assert produced <= 2 * 8
        assert recorder.states["leaver"][-1] is State.CANCELLED
        (line,) = [r for r in caplog.records if r.getMessage() == "request cancelled"]
        assert line.fields["status_code"] == "CANCELLED"  # type: ignore[attr-defined]
        page = server.app.metrics.render()[0].decode()
        assert 'requests_total{model="scripted",outcome="cancelled"} 1.0' in page


async def test_a_slot_is_used_again_in_the_next_step() -> None:
    async with gated(sequences=1) as server:
        stream = server.stream(request_id="leaver", max_tokens=100)
        server.runner.let(3)
        assert (await stream.read()).HasField("started")
        await server.runner.held(4)
        waiting = asyncio.ensure_future(server.generate(request_id="waiting"))
        await server.recorder.state("waiting", State.WAITING)
        stream.cancel()
        await server.recorder.state("leaver", State.CANCELLED)
        server.runner.let(1)
        step = await server.runner.held(5)
        assert slots_of(step) == {0}
        assert any(isinstance(operation, Open) for operation in step.operations)
        server.runner.open()
        assert (await waiting).usage.completion_tokens == 8


async def test_many_callers_leave_at_once() -> None:
    async with gated(sequences=4) as server:
        channel = server.connect()
        stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
        calls = [stub.Generate(asked(request_id=str(i), max_tokens=100)) for i in range(12)]
        waiting = [asyncio.ensure_future(_ends(call)) for call in calls]
        await server.recorder.until(lambda: len(server.recorder.states) == 12)
        server.runner.let(5)
        await server.runner.held(6)
        await channel.close()
        for i in range(12):
            await server.recorder.state(str(i), State.CANCELLED)
        await asyncio.gather(*waiting)
        assert server.slots_in_use == 0
        server.runner.open()
        await server.generate()


async def _ends(call: Any) -> None:
    with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
        await call
