"""100,000 requests that nobody would write: each ends with a status of the table."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from pathlib import Path

import grpc
import psutil
import pytest
from fuzzing import STATUSES, Ended, Fuzz, calls, send
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from serve_process import serve_process

from llm_serving_engine.v1 import inference_pb2, inference_pb2_grpc

REQUESTS = int(os.environ.get("ENDURANCE_FUZZED_REQUESTS", "100000"))
ROUND = 1000
SIDE_BY_SIDE = 50


def fuzzed(number: int) -> list[Fuzz]:
    """So many calls; the same for the same number."""
    found: list[Fuzz] = []

    @seed(number)
    @settings(
        max_examples=ROUND // 10,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(calls(), min_size=10, max_size=10))
    def collect(batch: list[Fuzz]) -> None:
        found.extend(batch)

    collect()
    return found


async def send_all(channel: grpc.aio.Channel, batch: list[Fuzz]) -> list[Ended]:
    waiting = iter(batch)
    ends: list[Ended] = []

    async def work() -> None:
        for fuzz in waiting:
            end = await send(channel, fuzz)
            ends.append(end)

    await asyncio.gather(*(work() for _ in range(SIDE_BY_SIDE)))
    return ends


@pytest.mark.parametrize("backend", ["scripted", "llama.cpp"])
async def test_fuzzed_requests(backend: str, tiny_quantized_model_path: Path) -> None:
    arguments = ("--backend", backend, "--model", str(tiny_quantized_model_path))
    env = {
        "LLM_SERVING_ENGINE_MODEL__RUNNER__CONTEXT_PER_SEQUENCE": "256",
        "LLM_SERVING_ENGINE_MODEL__RUNNER__SEQUENCES": "16",
        "LLM_SERVING_ENGINE_MODEL__RUNNER__THREADS": "1",
        "LLM_SERVING_ENGINE_LOG__LEVEL": "error",
    }
    codes: Counter[str] = Counter()
    with serve_process(*arguments, env=env) as process:
        runner, main = process.runner.pid, psutil.Process(process.process.pid)
        began, before = time.perf_counter(), main.memory_info().rss
        async with grpc.aio.insecure_channel(process.address) as channel:
            for number in range(REQUESTS // 2 // ROUND):
                ends = await send_all(channel, fuzzed(number))
                codes.update(end.code.name for end in ends)
                assert [end for end in ends if end.code not in STATUSES] == []
            request = inference_pb2.GenerateRequest(prompt="hello", max_tokens=8, ignore_eos=True)
            answer = await inference_pb2_grpc.InferenceServiceStub(channel).Generate(request)
            assert answer.usage.completion_tokens == 8
        after = main.memory_info().rss
        assert process.runner.pid == runner
        process.signal(signal.SIGTERM)
        code, log = process.end()
    print(
        f"\n{backend}: {codes.total()} requests in {time.perf_counter() - began:.0f} s, "
        f"{dict(codes.most_common())}; memory {before / 1e6:.0f} and {after / 1e6:.0f} MB"
    )
    assert (code, log) == (0, "")
