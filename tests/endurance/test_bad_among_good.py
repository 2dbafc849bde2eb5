"""100,000 bad requests over gRPC and HTTP, and good ones beside them that must not notice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import grpc
from bad_requests import PER_SECOND, Report
from bad_requests import __file__ as sender
from probed_process import LITTLE_WORK, Memory, probed_process
from probed_serve import read_stalls
from serve_process import ServeProcess

from llm_serving_engine.v1 import generation_pb2, inference_pb2, inference_pb2_grpc

REQUESTS = int(os.environ.get("ENDURANCE_BAD_REQUESTS", "100000"))
# How long the good ones among them are sent alone.
ALONE_SECONDS = float(os.environ.get("ENDURANCE_ALONE_SECONDS", "60"))
SEED = 7
STALL_SECONDS_MAX = 0.05
P99_RATIO_MAX = 1.5
GROWTH_BYTES_MAX = 5e6


class Watch:
    """What a caller sees, and what the server needs, while others send requests.

    Attributes:
        times: Those of good requests, one after the other, in seconds.
        memory: What the server needed.
    """

    def __init__(self, server: ServeProcess) -> None:
        self._server = server
        self.times: list[float] = []
        self.memory = Memory(server)

    async def until(self, done: asyncio.Event) -> None:
        await asyncio.gather(self._call(done), self.memory.until(done))

    async def _call(self, done: asyncio.Event) -> None:
        request = inference_pb2.GenerateRequest(prompt="Once upon a time", max_tokens=8)
        request.ignore_eos, request.priority = True, generation_pb2.PRIORITY_CRITICAL
        async with grpc.aio.insecure_channel(self._server.address) as channel:
            stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
            while not done.is_set():
                began = time.perf_counter()
                answer = await stub.Generate(request)
                self.times.append(time.perf_counter() - began)
                assert answer.usage.completion_tokens == 8

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.times, n=100)[98]

    def __str__(self) -> str:
        return (
            f"{len(self.times)} good requests: p50 {statistics.median(self.times) * 1e3:.0f}, "
            f"p99 {self.p99 * 1e3:.0f} ms; {self.memory}"
        )


async def beside(server: ServeProcess, count: int, *earlier: Path) -> tuple[Watch, Report]:
    """Watch the server while it gets so many requests: all, or the good ones of an earlier run."""
    port = server.http.rpartition(":")[2]
    others = await asyncio.create_subprocess_exec(
        *(sys.executable, sender, server.address, port, str(count), str(SEED), *earlier),
        stdout=asyncio.subprocess.PIPE,
    )
    watch, done = Watch(server), asyncio.Event()
    watching = asyncio.create_task(watch.until(done))
    output, _ = await others.communicate()
    done.set()
    await watching
    assert others.returncode == 0
    return watch, Report(*json.loads(output))


async def test_bad_requests_among_good_ones(tmp_path: Path) -> None:
    stall_file, log, earlier = tmp_path / "stalls", tmp_path / "log", tmp_path / "report"
    with probed_process(stall_file, log, "--model", "builtin", env=LITTLE_WORK) as server:
        runner = server.runner.pid
        # Loading is over: what it held up is not looked at.
        stall_file.unlink()
        began = time.perf_counter()
        busy, report = await beside(server, REQUESTS)
        seconds = time.perf_counter() - began
        stalls = read_stalls(stall_file)
        earlier.write_text(json.dumps(report))
        alone, _ = await beside(server, int(min(ALONE_SECONDS * PER_SECOND, REQUESTS)), earlier)
        assert server.runner.pid == runner
        server.signal(signal.SIGTERM)
        code = server.process.wait()
    ends = report.ends
    print(
        f"\n{sum(ends.values())} requests in {seconds:.0f} s: {ends}",
        "longest stalls:",
        *stalls,
        f"beside all: {busy}",
        f"beside the good ones: {alone}",
        sep="\n",
    )
    assert (code, log.read_text()) == (0, "")
    assert [end for end in ends if "unexpected" in end or "HTTP 500" in end] == []
    assert stalls[0].own < STALL_SECONDS_MAX
    assert busy.memory.growth < GROWTH_BYTES_MAX
    assert busy.p99 < P99_RATIO_MAX * alone.p99
