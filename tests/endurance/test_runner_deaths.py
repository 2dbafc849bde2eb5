"""Runners that are killed, or stopped, again and again under load."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from callers import Callers, HealthProbe, questions
from serve_process import ServeProcess, serve_process

from llm_serving_engine.v1 import operations_pb2

STREAMS = 16
TOKENS = 120
KILLS = int(os.environ.get("ENDURANCE_KILLS", "100"))
STOPS = int(os.environ.get("ENDURANCE_STOPS", "20"))
STEP_SECONDS_MAX = 2.0
HEALTH_SECONDS_MAX = 0.1
PREFIX = "LLM_SERVING_ENGINE_"
SETTINGS = {
    f"{PREFIX}SCHEDULER__DETERMINISM": "batch_invariant",
    f"{PREFIX}SCHEDULER__RUNNER_LOSSES_MAX": "1000000",
    f"{PREFIX}MODEL__RUNNER__SEQUENCES": "16",
    f"{PREFIX}MODEL__RUNNER__CONTEXT_PER_SEQUENCE": "512",
    f"{PREFIX}MODEL__SUPERVISION__RESTART_DELAY_SECONDS_MAX": "0.1",
    f"{PREFIX}MODEL__SUPERVISION__STEP_SECONDS_MAX": str(STEP_SECONDS_MAX),
    f"{PREFIX}MODEL__SUPERVISION__LOAD_SILENCE_SECONDS_MAX": "5",
}


@contextlib.contextmanager
def server(path: Path) -> Iterator[ServeProcess]:
    env = {**SETTINGS, f"{PREFIX}LOG__LEVEL": "error"}
    with serve_process("--model", str(path), env=env, quiet=True) as process:
        yield process


async def disturb(
    process: ServeProcess, probe: HealthProbe, number: signal.Signals, times: int
) -> set[int]:
    """Send a signal to one runner after the other, at random moments; their ids."""
    dice = random.Random(times)
    hit: set[int] = set()
    while len(hit) < times:
        # One in eight may be hit while it loads; the others have work to do.
        if dice.randrange(8):
            await probe.serving.wait()
        await asyncio.sleep(dice.uniform(0.0, 2.5))
        for runner in psutil.Process(process.process.pid).children():
            if runner.pid not in hit:
                runner.send_signal(number)
                hit.add(runner.pid)
    return hit


@pytest.mark.parametrize(
    ("number", "times"), [(signal.SIGKILL, KILLS), (signal.SIGSTOP, STOPS)], ids=["kill", "stop"]
)
@pytest.mark.parametrize(
    "model", ["tiny_quantized_model_path", "large_model_path"], ids=["tiny", "builtin"]
)
async def test_every_stream_completes(
    model: str, number: signal.Signals, times: int, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(model)
    with server(path) as process:
        main = psutil.Process(process.process.pid)
        async with Callers(process.address, questions(40, TOKENS, random.Random(1))) as callers:
            await callers.learn()
            files, began = main.num_fds(), time.perf_counter()
            enough, probe = asyncio.Event(), HealthProbe(process.address)
            calling = asyncio.gather(callers.call(STREAMS, enough), probe.run(enough))
            disturbing = asyncio.ensure_future(disturb(process, probe, number, times))
            tasks: set[asyncio.Future[Any]] = {calling, disturbing}
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            enough.set()
            await calling
            hit = await disturbing
            state = (await callers.operations.GetSchedulerState(
                operations_pb2.GetSchedulerStateRequest()
            )).state  # fmt: skip
            held = [slot for slot in state.slots if slot.request_id]
            print(
                f"\n{path.name}: {len(hit)} x {number.name} in {time.perf_counter() - began:.0f} s;"
                f" {callers.completed} streams, all as undisturbed;"
                f" health p50 {probe.percentile(50) * 1e3:.1f} ms,"
                f" p99 {probe.percentile(99) * 1e3:.1f} ms of {len(probe.seconds)}"
            )
            assert held == []
            assert len(main.children(recursive=True)) == 1
            # The probe's connection may still be there.
            assert main.num_fds() <= files + 1
            assert not [pid for pid in hit if psutil.pid_exists(pid)]
            assert probe.percentile(99) <= HEALTH_SECONDS_MAX
        runner = process.runner
        process.signal(signal.SIGTERM)
        assert process.process.wait(60) == 0
        assert not runner.is_running()
