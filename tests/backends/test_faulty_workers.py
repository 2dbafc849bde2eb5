"""Workers that die, hang, or answer wrongly in a step: each loss has a name, and is survived."""

from __future__ import annotations

import asyncio
from pathlib import Path

import faulty_backend as faulty
import pytest

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.process.host import ProcessRunner
from llm_serving_engine.backends.process.loss import Loss, LossReason
from llm_serving_engine.backends.process.results import fault_of
from llm_serving_engine.backends.process.supervision import Supervision
from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.scheduler.runner import RunnerLost
from llm_serving_engine.scheduler.step import (
    FOLLOW,
    DecodeRow,
    OpenSequence,
    PrefillChunk,
    SampledToken,
    SlotFailure,
    Step,
    StepResult,
)

CONFIG = BackendConfig(sequences=2, context_per_sequence=64)
OPEN = (OpenSequence(0, Sampling()),)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(faulty.__file__).parent))


def step_of(first: int) -> Step:
    return Step(1, (), OPEN, (PrefillChunk(0, 0, (first, 20, 21), sample=True),))


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        (faulty.CRASH, LossReason.CRASHED, "its process was ended by SIGSEGV"),
        (faulty.HANG, LossReason.HUNG, "a step took longer than 0.5 s"),
        (faulty.HALF, LossReason.CRASHED, "its process was ended by SIGSEGV"),
        (faulty.WRONG_STEP, LossReason.WRONG_RESULT, "the result of step 8 came for step 1"),
        (faulty.SHORT, LossReason.WRONG_RESULT, "the result of step 1 lacks the token of slot 0"),
        (faulty.GARBAGE, LossReason.WRONG_RESULT, "a message that cannot be read: "),
    ],
)
async def test_a_loss_has_a_name_and_the_next_worker_works(
    fault: int, reason: LossReason, words: str
) -> None:
    losses: list[Loss] = []
    runner = ProcessRunner(
        "faulty_backend:FaultyBackend",
        "",
        CONFIG,
        on_loss=lambda loss, delay: losses.append(loss),
        supervision=Supervision(step_seconds_max=0.5 if fault == faulty.HANG else 30),
    )
    try:
        await runner.start()
        with pytest.raises(RunnerLost) as raised:
            await runner.begin(step_of(fault))
        assert ("in the middle of a message" in str(raised.value)) is (fault == faulty.HALF)
        assert not await runner.bury()
        await runner.recover()
        ((loss),) = losses
        assert loss.reason is reason
        assert loss.description.startswith(words)
        assert not loss.outside
        assert len((await runner.begin(step_of(20))).tokens) == 1
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


ROWS = Step(3, decodes=(DecodeRow(0, 5, 7), DecodeRow(1, 6, FOLLOW)))
BOTH = (SampledToken(0, 1), SampledToken(1, 2))


@pytest.mark.parametrize(
    ("result", "before", "fault"),
    [
        (StepResult(3, BOTH), StepResult(2, BOTH), None),
        (StepResult(4, BOTH), StepResult(2, BOTH), "the result of step 4 came for step 3"),
        (StepResult(3, BOTH[:1]), StepResult(2, BOTH), "lacks the token of slot 1"),
        (StepResult(3), StepResult(2, BOTH), "lacks the token of slot 0"),
        (StepResult(3, BOTH[:1], (SlotFailure(1, "full"),)), StepResult(2, BOTH), None),
        # The row that followed had failed in the step before.
        (StepResult(3, BOTH[:1]), StepResult(2, BOTH[:1], (SlotFailure(1, "full"),)), None),
        (StepResult(3, BOTH), StepResult(2, BOTH[:1]), "tokens that were not asked for"),
        (StepResult(3, (*BOTH, SampledToken(2, 1))), StepResult(2, BOTH), "not asked for"),
        (StepResult(3, (*BOTH, *BOTH)), StepResult(2, BOTH), "not asked for"),
    ],
)
def test_fault_of(result: StepResult, before: StepResult, fault: str | None) -> None:
    found = fault_of(ROWS, result, before)
    assert found is None if fault is None else fault in (found or "")
