"""100,000 bad requests over gRPC and HTTP, and good ones beside them that must not notice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
from bad_requests import __file__ as sender
from probed_serve import __file__ as probed
from serve_process import ServeProcess

from llm_serving_engine.v1 import generation_pb2, inference_pb2, inference_pb2_grpc

REQUESTS = int(os.environ.get("ENDURANCE_BAD_REQUESTS", "100000"))
BASELINE_SECONDS = float(os.environ.get("ENDURANCE_BASELINE_SECONDS", "45"))
STALL_SECONDS_MAX = 0.05
P99_RATIO_MAX = 1.5
GROWTH_BYTES_MAX = 60e6
SETTINGS = {
    "LLM_SERVING_ENGINE_MODEL__RUNNER__THREADS": "1",
    # Some bad requests are valid by chance: they shall not keep the model busy.
    "LLM_SERVING_ENGINE_MODEL__RUNNER__CONTEXT_PER_SEQUENCE": "256",
    "LLM_SERVING_ENGINE_GENERATION__MAX_TOKENS_DEFAULT": "2",
    "LLM_SERVING_ENGINE_GENERATION__MAX_TOKENS_CEILING": "8",
    "LLM_SERVING_ENGINE_LOG__LEVEL": "error",
}


@contextlib.contextmanager
def serving(stalls: Path, log: Path) -> Iterator[ServeProcess]:
    import subprocess

    ports = ("--port", "0", "--http-port", "0")
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, probed, "serve", "--model", "builtin", *ports],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, **SETTINGS, "STALL_FILE": str(stalls)},
        )
    try:
        yield ServeProcess(process)
    finally:
        process.kill()
        process.communicate()


async def measure(address: str, until: asyncio.Event) -> list[float]:
    """The times of good requests, one after the other."""
    times = []
    request = inference_pb2.GenerateRequest(prompt="Once upon a time", max_tokens=8)
    request.ignore_eos, request.priority = True, generation_pb2.PRIORITY_CRITICAL
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
        while not until.is_set():
            began = time.perf_counter()
            answer = await stub.Generate(request)
            times.append(time.perf_counter() - began)
            assert answer.usage.completion_tokens == 8
    return times


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


async def baseline(address: str) -> list[float]:
    enough = asyncio.Event()
    asyncio.get_running_loop().call_later(BASELINE_SECONDS, enough.set)
    return await measure(address, enough)


async def beside_bad_ones(server: ServeProcess) -> tuple[list[float], dict[str, int]]:
    port = server.http.rpartition(":")[2]
    bad = await asyncio.create_subprocess_exec(
        *(sys.executable, sender, server.address, port, str(REQUESTS), "7"),
        stdout=asyncio.subprocess.PIPE,
    )
    done = asyncio.Event()
    measuring = asyncio.create_task(measure(server.address, done))
    output, _ = await bad.communicate()
    done.set()
    assert bad.returncode == 0
    return await measuring, json.loads(output)


async def test_bad_requests_among_good_ones(tmp_path: Path) -> None:
    stalls, log = tmp_path / "stalls", tmp_path / "log"
    with serving(stalls, log) as server:
        main, runner = psutil.Process(server.process.pid), server.runner.pid
        quiet = await baseline(server.address)
        stall_quiet = float(stalls.read_text())
        stalls.unlink()
        began, before = time.perf_counter(), main.memory_info().rss
        busy, ends = await beside_bad_ones(server)
        seconds, after = time.perf_counter() - began, main.memory_info().rss
        stall = float(stalls.read_text())
        assert server.runner.pid == runner
        server.signal(signal.SIGTERM)
        code = server.process.wait()
    print(
        f"\n{sum(ends.values())} requests in {seconds:.0f} s: {ends}\n"
        f"longest stall {stall * 1e3:.1f} ms (without them {stall_quiet * 1e3:.1f} ms); "
        f"memory {before / 1e6:.0f} and {after / 1e6:.0f} MB\n"
        f"good requests: {len(quiet)} alone, p50 {statistics.median(quiet) * 1e3:.0f}, "
        f"p99 {p99(quiet) * 1e3:.0f} ms; {len(busy)} beside them, "
        f"p50 {statistics.median(busy) * 1e3:.0f}, p99 {p99(busy) * 1e3:.0f} ms"
    )
    assert (code, log.read_text()) == (0, "")
    assert [end for end in ends if "unexpected" in end or "HTTP 500" in end] == []
    assert stall < STALL_SECONDS_MAX
    assert after - before < GROWTH_BYTES_MAX
    assert p99(busy) < P99_RATIO_MAX * p99(quiet)
