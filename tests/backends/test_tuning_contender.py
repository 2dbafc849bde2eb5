"""Measuring a real runner."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.process.host import ProcessRunner
from llm_serving_engine.backends.tuning.contender import (
    CONTEXT,
    Effort,
    MeasuringFailed,
    RunnerContender,
)
from llm_serving_engine.scheduler.step import Step, StepResult

SETTINGS = Settings(4, 1024, 1, 64, "f16", True, 0)


class Recorder:
    """Passes steps on to a runner, and keeps them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[Step] = []
        begin = ProcessRunner.begin

        def recording(runner: ProcessRunner, step: Step) -> asyncio.Future[StepResult]:
            self.steps.append(step)
            return begin(runner, step)

        monkeypatch.setattr(ProcessRunner, "begin", recording)


def rows_steps(recorder: Recorder) -> list[Step]:
    return [step for step in recorder.steps if step.runs and step.rows]


def chunks(recorder: Recorder) -> list[tuple[int, int, int]]:
    """Slot, start, and length of the prompts' chunks."""
    return [
        (run.slot, run.start, len(run.tokens))
        for step in recorder.steps
        for run in step.runs
        if not step.rows
    ]


@pytest_asyncio.fixture
async def contender(tiny_model_path: Path) -> AsyncIterator[RunnerContender]:
    contender = RunnerContender(str(tiny_model_path), SETTINGS, 3, 300)
    await contender.start()
    yield contender
    await contender.close()


async def test_it_measures_a_prompt_and_a_row_for_each_client(
    contender: RunnerContender, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    reading = await contender.measure(Effort(96, 5))
    assert reading.rows == 3
    assert reading.prefill_token_seconds > 0
    assert reading.decode_step_seconds > 0
    assert chunks(recorder) == [(0, 0, 64), (0, 64, 32)]
    rows = [[(run.slot, run.start) for run in step.runs] for step in rows_steps(recorder)]
    # The first step is not counted.
    assert rows == [[(slot, 96 + i) for slot in range(3)] for i in range(6)]


async def test_it_can_be_measured_again(contender: RunnerContender) -> None:
    await contender.measure(Effort(96, 5))
    assert (await contender.measure(Effort(32, 2))).rows == 3


async def test_a_prompt_is_as_long_as_the_context_allows(
    contender: RunnerContender, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    await contender.measure(Effort(4096, 7))
    positions = [run.start for step in rows_steps(recorder) for run in step.runs]
    assert max(positions) == CONTEXT - 1


async def test_a_model_that_copies_nothing(
    contender: RunnerContender, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    capabilities = contender._runner.capabilities._replace(copy=False)
    monkeypatch.setattr(ProcessRunner, "capabilities", capabilities)
    assert (await contender.measure(Effort(96, 2))).rows == 3
    assert chunks(recorder) == [(0, 0, 64), (0, 64, 32), (1, 0, 8), (2, 0, 8)]


async def test_a_runner_that_dies(contender: RunnerContender) -> None:
    process = contender._runner.process_id
    assert process is not None
    os.kill(process, signal.SIGKILL)
    psutil.Process(process).wait()
    with pytest.raises(MeasuringFailed, match="ended"):
        await contender.measure(Effort(32, 2))


async def test_a_step_that_is_refused(contender: RunnerContender) -> None:
    contender._context = 10**6
    with pytest.raises(MeasuringFailed, match="the cache is full"):
        await contender.measure(Effort(2048, 2))
