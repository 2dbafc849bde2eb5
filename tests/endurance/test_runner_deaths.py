"""Runners that are killed, stopped, or poisoned, again and again under load."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import faulty_backend
import grpc
import psutil
import pytest
from callers import Callers, HealthProbe, questions
from google.rpc import error_details_pb2
from running_server import detail, error_of
from serve_process import ServeProcess, serve_process

from llm_serving_engine.backends.quantize import quantize
from llm_serving_engine.v1 import generation_pb2, inference_pb2, operations_pb2

STREAMS = 16
QUESTIONS = 24
TOKENS = 120
SECONDS = float(os.environ.get("ENDURANCE_SECONDS", "300"))
POISONS = int(os.environ.get("ENDURANCE_POISONS", "10"))
# Between two signals, from the first to the last.
PAUSE_SECONDS = (2.0, 4.0)
# From one signal to the next, on average.
LONGEST_SECONDS = {signal.SIGKILL: 8.0, signal.SIGSTOP: 25.0}
HEALTH_SECONDS_MAX = 0.1
# The built-in model's last token: no answer to the questions has it.
FATAL_TOKEN = 49151
PREFIX = "LLM_SERVING_ENGINE_"
SETTINGS = {
    f"{PREFIX}SCHEDULER__DETERMINISM": "batch_invariant",
    f"{PREFIX}MODEL__RUNNER__SEQUENCES": "16",
    f"{PREFIX}MODEL__RUNNER__CONTEXT_PER_SEQUENCE": "512",
    f"{PREFIX}LOG__LEVEL": "error",
    # Several runners in a row are killed while they load, or one is stopped: health is that of a
    # server whose operator lets it take so long.
    f"{PREFIX}MODEL__SUPERVISION__RESTART_GRACE_SECONDS": "60",
}
# Short, so that a runner that is stopped is soon replaced.
WATCHFUL = {
    f"{PREFIX}MODEL__SUPERVISION__STEP_SECONDS_MAX": "2",
    f"{PREFIX}MODEL__SUPERVISION__LOAD_SILENCE_SECONDS_MAX": "10",
}
POISONED = {
    "PYTHONPATH": os.pathsep.join(
        filter(None, (str(Path(faulty_backend.__file__).parent), os.environ.get("PYTHONPATH")))
    ),
    faulty_backend.FATAL_TOKEN: str(FATAL_TOKEN),
}


@pytest.fixture(scope="module")
def quantized_builtin_path(
    builtin_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The built-in model as Q4_0: its sequences give the same bits alone and under load."""
    path = tmp_path_factory.mktemp("models") / "builtin.Q4_0.gguf"
    quantize(builtin_model_path, path, "Q4_0")
    return path


@pytest.fixture(params=["tiny", "builtin"])
def model_path(request: pytest.FixtureRequest) -> Path:
    """The file that ENDURANCE_MODEL names, or else a quantized one."""
    name = "tiny_quantized_model_path" if request.param == "tiny" else "quantized_builtin_path"
    chosen = os.environ.get("ENDURANCE_MODEL") if request.param == "builtin" else None
    path = chosen or request.getfixturevalue(name)
    return Path(path)


@contextlib.contextmanager
def server(path: Path, *arguments: str, watchful: bool = False) -> Iterator[ServeProcess]:
    env = {**SETTINGS, **POISONED, **(WATCHFUL if watchful else {})}
    with serve_process("--model", str(path), *arguments, env=env, quiet=True) as process:
        yield process


async def disturb(
    process: ServeProcess, callers: Callers, number: signal.Signals, dice: random.Random
) -> int:
    """Send a signal to whatever runner there is, loading or not, for some minutes; how often.

    A runner that is stopped while it loads is found out late, so that the next one is let load.
    """
    ends, hit, was_loading = time.monotonic() + SECONDS, 0, False
    while time.monotonic() < ends:
        await asyncio.sleep(dice.uniform(*PAUSE_SECONDS))
        loading = await callers.loading()
        if number == signal.SIGSTOP and loading and was_loading:
            continue
        was_loading = loading
        for runner in psutil.Process(process.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                runner.send_signal(number)
                hit += 1
    return hit


async def poison(callers: Callers, dice: random.Random) -> int:
    """Send one request after the other that makes the runner crash; how many."""
    for number in range(POISONS):
        await asyncio.sleep(dice.uniform(*PAUSE_SECONDS))
        # Its first token is the fatal one, which crashes the runner once it is computed.
        request = inference_pb2.GenerateRequest(
            prompt=f"this one, number {number}, ends badly",
            max_tokens=TOKENS,
            ignore_eos=True,
            sampling=generation_pb2.Sampling(temperature=0, logit_bias={FATAL_TOKEN: 100.0}),
        )
        error = await error_of(callers.inference.Generate(request))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert detail(error, error_details_pb2.ErrorInfo).reason == "REQUEST_KILLS_RUNNER"
    return POISONS


def losses(process: ServeProcess) -> dict[str, int]:
    """How many runners were lost, by what to."""
    with urllib.request.urlopen(f"{process.http}/metrics") as answer:
        text = answer.read().decode()
    found = re.findall(r'runner_losses_total\{loss="(\w+)",.*\} (\S+)', text)
    return {loss: int(float(count)) for loss, count in found if float(count)}


@contextlib.asynccontextmanager
async def streams(process: ServeProcess) -> AsyncIterator[Callers]:
    """Streams that run meanwhile, and that must all complete as if they were undisturbed."""
    main = psutil.Process(process.process.pid)
    async with Callers(process.address, questions(QUESTIONS, TOKENS, random.Random(1))) as callers:
        await callers.learn()
        files, began = main.num_fds(), time.perf_counter()
        enough, probe = asyncio.Event(), HealthProbe(process.address)
        calling = asyncio.gather(callers.call(STREAMS, enough), probe.run(enough))
        try:
            yield callers
        finally:
            enough.set()
            await calling
        print(
            f"\n{time.perf_counter() - began:.0f} s; losses {losses(process)};"
            f" {callers.completed} streams, all as undisturbed;"
            f" health p50 {probe.percentile(50) * 1e3:.1f} ms,"
            f" p99 {probe.percentile(99) * 1e3:.1f} ms of {len(probe.seconds)},"
            f" {probe.refused} not SERVING"
        )
        state = await callers.operations.GetSchedulerState(
            operations_pb2.GetSchedulerStateRequest()
        )
        assert [slot for slot in state.state.slots if slot.request_id] == []
        assert len(main.children(recursive=True)) == 1
        # The probe's connection may still be there.
        assert main.num_fds() <= files + 1
        assert probe.refused == 0
        assert probe.percentile(99) <= HEALTH_SECONDS_MAX


def end(process: ServeProcess) -> None:
    """Stop the server; nothing is left of it."""
    runner = process.runner
    process.signal(signal.SIGTERM)
    assert process.process.wait(60) == 0
    assert not runner.is_running()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["kill", "stop"])
async def test_every_stream_completes(model_path: Path, number: signal.Signals) -> None:
    with server(model_path, watchful=number == signal.SIGSTOP) as process:
        async with streams(process) as callers:
            hit = await disturb(process, callers, number, random.Random(2))
        assert hit >= SECONDS / LONGEST_SECONDS[number]
        assert callers.completed
        end(process)


async def test_poison_alone_is_refused(quantized_builtin_path: Path) -> None:
    with server(quantized_builtin_path, "--backend", "faulty_backend:FaultyLlama") as process:
        async with streams(process) as callers:
            poisons = await poison(callers, random.Random(3))
        assert set(losses(process)) == {"crashed"}
        assert 2 * poisons <= losses(process)["crashed"] <= 3 * poisons
        assert callers.completed
        end(process)
