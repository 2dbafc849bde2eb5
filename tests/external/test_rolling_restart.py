"""Two replicas behind a real Envoy, one after the other restarted under load."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy_proxy import proxy
from serve_process import ServeProcess, start_serve

from llm_serving_engine.v1 import inference_pb2, inference_pb2_grpc

RESTARTS = int(os.environ.get("ENVOY_RESTARTS", "3"))
PAUSE_SECONDS = float(os.environ.get("ENVOY_RESTART_SECONDS", "20"))
CALLERS = 8
TOKENS = 300
# Envoy asks for the health every 0.1 s here, and believes two bad answers.
SETTINGS = {
    "LLM_SERVING_ENGINE_DRAIN_NOTICE_SECONDS": "2",
    "LLM_SERVING_ENGINE_LOG__LEVEL": "error",
}


class Replica:
    """A server on the scripted backend that can be replaced by another on the same port."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        ports = ("--port", str(self.port), "--http-port", "0")
        process = start_serve("--backend", "scripted", *ports, env=SETTINGS)
        self.server = ServeProcess(process)

    def stop(self) -> int:
        self.server.signal(signal.SIGTERM)
        code, log = self.server.end()
        self.server.process.communicate()  # closes its pipes
        assert log == ""
        return code

    def kill(self) -> None:
        self.server.process.kill()
        self.server.process.communicate()


async def call(stub: Any, ends: Counter[str], over: asyncio.Event) -> None:
    """Stream after stream; what became of each."""
    request = inference_pb2.GenerateRequest(prompt="hello", max_tokens=TOKENS, ignore_eos=True)
    while not over.is_set():
        tokens = 0
        try:
            async for event in stub.Stream(request):
                tokens += len(event.delta.token_ids)
            ends["complete" if tokens == TOKENS else "short"] += 1
        except grpc.aio.AioRpcError as error:
            ends[f"{error.code().name}: {error.details()}"] += 1


@pytest.mark.timeout(900)
async def test_no_caller_notices_a_rolling_restart(envoy: Path) -> None:
    replicas = [Replica(), Replica()]
    ends: Counter[str] = Counter()
    over = asyncio.Event()
    with ExitStack() as stack:
        for replica in replicas:
            stack.callback(replica.kill)
        target = stack.enter_context(proxy(envoy, [replica.address for replica in replicas]))
        options = [("grpc.enable_retries", 0)]
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            await channel.channel_ready()
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            callers = [asyncio.create_task(call(stub, ends, over)) for _ in range(CALLERS)]
            began = time.perf_counter()
            for number in range(RESTARTS):
                await asyncio.sleep(PAUSE_SECONDS)
                replica = replicas[number % 2]
                assert await asyncio.to_thread(replica.stop) == 0
                await asyncio.to_thread(replica.start)
            await asyncio.sleep(PAUSE_SECONDS)
            over.set()
            await asyncio.gather(*callers)
        seconds = time.perf_counter() - began
    print(f"\n{RESTARTS} restarts in {seconds:.0f} s: {dict(ends)}")  # noqa: T201
    assert set(ends) == {"complete"}
