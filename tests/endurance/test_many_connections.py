"""2,000 connections, and 1,000 streams that wait: what each of them costs the server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc
import psutil
from raw_connection import RawConnection, framed, raw_connection
from serve_process import serve_process

from llm_serving_engine.v1 import (
    inference_pb2,
    inference_pb2_grpc,
    operations_pb2,
    operations_pb2_grpc,
)

CONNECTIONS = 2000
CONNECTION_BYTES_MAX = 100_000
STREAMS = 1000
STREAM_BYTES_MAX = 100_000
QUIET = {"LLM_SERVING_ENGINE_LOG__LEVEL": "error"}
REQUEST = inference_pb2.GenerateRequest(prompt="hello", max_tokens=8, ignore_eos=True)


async def test_many_connections() -> None:
    with serve_process("--backend", "scripted", env=QUIET, quiet=True) as process:
        main = psutil.Process(process.process.pid)
        async with grpc.aio.insecure_channel(process.address) as channel:
            stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
            await stub.Generate(REQUEST)
            before = main.memory_info().rss
            async with contextlib.AsyncExitStack() as stack:
                opened = [
                    await stack.enter_async_context(raw_connection(process.address))
                    for _ in range(CONNECTIONS)
                ]
                await asyncio.gather(*map(RawConnection.receive, opened))
                each = (main.memory_info().rss - before) / CONNECTIONS
                assert (await stub.Generate(REQUEST)).text
                for connection in opened[::100]:
                    answer = await connection.answer(await connection.call(framed(REQUEST)))
                    assert answer.status == 0
            assert (await stub.Generate(REQUEST)).text
        print(f"\n{CONNECTIONS} connections, {each / 1000:.0f} kB each")
        assert each < CONNECTION_BYTES_MAX


async def test_many_streams_that_wait() -> None:
    env = {
        **QUIET,
        "LLM_SERVING_ENGINE_MODEL__RUNNER__SEQUENCES": "1",
        "LLM_SERVING_ENGINE_SCHEDULER__QUEUE_REQUESTS_PER_TENANT_MAX": str(STREAMS + 1),
    }
    with serve_process("--backend", "scripted", env=env, quiet=True) as process:
        main = psutil.Process(process.process.pid)
        async with grpc.aio.insecure_channel(process.address) as channel:
            stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
            operations: Any = operations_pb2_grpc.OperationsServiceStub(channel)
            await stub.Generate(REQUEST)
            before = main.memory_info().rss
            process.runner.suspend()
            streams = [stub.Stream(REQUEST) for _ in range(STREAMS + 1)]
            reading = [asyncio.ensure_future(_text(stream)) for stream in streams]
            while await _waiting(operations) < STREAMS:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            each = (main.memory_info().rss - before) / STREAMS
            print(f"\n{STREAMS} streams that wait, {each / 1000:.0f} kB each")
            process.runner.resume()
            assert all(await asyncio.gather(*reading))
        assert each < STREAM_BYTES_MAX


async def _text(stream: Any) -> str:
    return "".join([event.delta.text async for event in stream])


async def _waiting(operations: Any) -> int:
    answer = await operations.GetSchedulerState(operations_pb2.GetSchedulerStateRequest())
    return sum(load.requests for load in answer.state.queues)
