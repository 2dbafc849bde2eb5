"""The server's memory after many requests."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import psutil
from callers import Callers, questions
from serve_process import serve_process

REQUESTS = int(os.environ.get("ENDURANCE_REQUESTS", "10000"))
WARM = REQUESTS // 10
STREAMS = 16
GROWTH_BYTES_MAX = 5_000_000


async def test_memory_does_not_grow(tiny_quantized_model_path: Path) -> None:
    env = {
        "LLM_SERVING_ENGINE_MODEL__RUNNER__CONTEXT_PER_SEQUENCE": "512",
        "LLM_SERVING_ENGINE_LOG__LEVEL": "error",
    }
    with serve_process("--model", str(tiny_quantized_model_path), env=env, quiet=True) as process:
        main = psutil.Process(process.process.pid)
        async with Callers(process.address, questions(200, 8, random.Random(2))) as callers:
            began = time.perf_counter()
            await callers.times(WARM, STREAMS)
            warm, runner_warm = main.memory_info().rss, process.runner.memory_info().rss
            await callers.times(REQUESTS - WARM, STREAMS)
            after, runner_after = main.memory_info().rss, process.runner.memory_info().rss
        print(
            f"\nserver {warm / 1e6:.1f} MB after {WARM} requests, {after / 1e6:.1f} MB after"
            f" {REQUESTS}; runner {runner_warm / 1e6:.1f} and {runner_after / 1e6:.1f} MB;"
            f" {time.perf_counter() - began:.0f} s"
        )
        assert after - warm < GROWTH_BYTES_MAX
        assert runner_after - runner_warm < GROWTH_BYTES_MAX
