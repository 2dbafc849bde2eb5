"""Workers that die, hang, or answer wrongly in a step: each loss has a name, and is survived."""

from __future__ import annotations

import asyncio
from pathlib import Path

import faulty_backend as faulty
import pytest

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.process.host import ProcessRunner
from llm_serving_engine.backends.process.results import fault_of
from llm_serving_engine.backends.process.runner_loss import LossReason, RunnerLoss
from llm_serving_engine.backends.process.supervision import Supervision
from llm_serving_engine.backends.runner import RunnerLost
from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.scheduler.step import (
    FOLLOW,
    Logprobs,
    Open,
    Output,
    Run,
    RunResult,
    Step,
    StepResult,
)

CONFIG = BackendConfig(sequences=2, context_per_sequence=64)
OPEN = (Open(0, Sampling()),)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(faulty.__file__).parent))


def step_of(first: int) -> Step:
    return Step(1, OPEN, (Run(0, 0, 0, (first, 20, 21), output=Output.SAMPLE),))


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        (faulty.CRASH, LossReason.CRASHED, "its process was ended by SIGSEGV"),
        (faulty.HANG, LossReason.HUNG, "a step took longer than 2 s"),
        (faulty.HALF, LossReason.CRASHED, "its process was ended by SIGSEGV"),
        (faulty.WRONG_STEP, LossReason.WRONG_RESULT, "the result of step 8 came for step 1"),
        (
            faulty.SHORT,
            LossReason.WRONG_RESULT,
            "the result of step 1, sequence 0: the token is missing",
        ),
        (faulty.GARBAGE, LossReason.WRONG_RESULT, "a message that cannot be read: "),
    ],
)
async def test_a_loss_has_a_name_and_the_next_worker_works(
    fault: int, reason: LossReason, words: str
) -> None:
    losses: list[RunnerLoss] = []
    runner = ProcessRunner(
        "faulty_backend:FaultyBackend",
        "",
        CONFIG,
        on_loss=lambda loss, delay: losses.append(loss),
        supervision=Supervision(step_seconds_max=2 if fault == faulty.HANG else 30),
    )
    try:
        await runner.start()
        with pytest.raises(RunnerLost) as raised:
            await runner.begin(step_of(fault))
        assert ("in the middle of a message" in str(raised.value)) is (fault == faulty.HALF)
        assert not await runner.reap()
        await runner.recover()
        ((loss),) = losses
        assert loss.reason is reason
        assert loss.description.startswith(words)
        assert not loss.outside
        assert len((await runner.begin(step_of(20))).runs[0].tokens) == 1
    finally:
        await runner.close()


async def test_what_comes_after_a_wrong_result_is_dropped() -> None:
    runner = ProcessRunner("faulty_backend:FaultyBackend", "", CONFIG)
    try:
        await runner.start()
        results = [runner.begin(step_of(faulty.WRONG_STEP)), runner.begin(step_of(20))]
        for ended in await asyncio.gather(*results, return_exceptions=True):
            assert isinstance(ended, RunnerLost)
    finally:
        await runner.close()


DRAW = Output.SAMPLE
ROWS = Step(
    3,
    (Open(1, Sampling()),),
    (Run(0, 0, 5, (7,), output=DRAW), Run(1, 1, 6, (FOLLOW,), output=DRAW), Run(2, 2, 0, (4, 5))),
)
DONE = (RunResult(0, 1, (8,)), RunResult(1, 1, (9,)), RunResult(2, 2))


@pytest.mark.parametrize(
    ("result", "fault"),
    [
        (StepResult(3, runs=DONE), None),
        (StepResult(3, recalled=True), None),
        (StepResult(4, runs=DONE), "the result of step 4 came for step 3"),
        (StepResult(3), "has not the runs that were asked for"),
        (StepResult(3, runs=DONE[:2]), "has not the runs that were asked for"),
        (StepResult(3, runs=(DONE[1], DONE[0], DONE[2])), "has not the runs"),
        (StepResult(3, runs=(RunResult(0, 1), *DONE[1:])), "the token is missing"),
        # A row that was skipped, or refused, and one that cannot go on.
        (StepResult(3, runs=(DONE[0], RunResult(1, 0), DONE[2])), None),
        (StepResult(3, runs=(DONE[0], RunResult(1, 0, error="full"), DONE[2])), None),
        (StepResult(3, runs=(*DONE[:2], RunResult(2, 3))), "3 of 2 tokens are done"),
        (StepResult(3, runs=(*DONE[:2], RunResult(2, 2, (1,)))), "was not asked for"),
        (StepResult(3, runs=(RunResult(0, 0, (8,)), *DONE[1:])), "was not asked for"),
        (
            StepResult(3, runs=(RunResult(0, 1, (8,), (Logprobs(-1.0),)), *DONE[1:])),
            "log-probabilities are not those",
        ),
        (StepResult(3, runs=DONE, failed=(0,)), None),
        (StepResult(3, runs=DONE, failed=(1,)), "names operations that were not asked for"),
    ],
)
def test_fault_of(result: StepResult, fault: str | None) -> None:
    found = fault_of(ROWS, result)
    assert found is None if fault is None else fault in (found or "")


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (RunResult(0, 3, (7, 8, 9)), None),
        (RunResult(0, 2, (7, 8)), None),
        (RunResult(0, 1, (7,), error="broken"), None),
        (RunResult(0, 4, (6, 7, 8, 9)), "4 of 3 tokens are done"),
        (RunResult(0, 3, (7, 8)), "the token is missing"),
        (RunResult(0, 2, (7, 8, 9)), "was not asked for"),
    ],
)
def test_fault_of_several_calls(outcome: RunResult, fault: str | None) -> None:
    step = Step(3, runs=(Run(0, 0, 5, (FOLLOW,), output=DRAW),), calls=3)
    found = fault_of(step, StepResult(3, runs=(outcome,)))
    assert found is None if fault is None else fault in (found or "")
