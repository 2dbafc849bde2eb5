"""Runners as processes: their start, their loss, their return, and their end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import faulty_backend
import psutil
import pytest
import pytest_asyncio

from llm_serving_engine.backends.backend import BackendConfig, LoadError, LoadReport
from llm_serving_engine.backends.models.errors import ModelFileError
from llm_serving_engine.backends.process import host
from llm_serving_engine.backends.process.host import ProcessRunner
from llm_serving_engine.backends.process.runner_loss import RunnerLoss, loss_from_exit_code
from llm_serving_engine.backends.process.supervision import Supervision
from llm_serving_engine.backends.runner import RunnerLost
from llm_serving_engine.backends.scripted import next_token
from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.scheduler.step import Open, Output, Run, RunResult, Step

CONFIG = BackendConfig(sequences=2, context_per_sequence=256, threads=1)
STEP = Step(1, (Open(0, Sampling()),), (Run(0, 0, 0, (1, 2, 3), output=Output.SAMPLE),))
EXPECTED = (RunResult(0, 3, (next_token([1, 2, 3]),)),)
BROKEN = Step(1, (), (Run(0, 0, 0, (), output=Output.SAMPLE),))

MakeRunner = Callable[..., ProcessRunner]


@pytest_asyncio.fixture
async def make_runner() -> AsyncIterator[MakeRunner]:
    """Makes runners that are closed at the end."""
    made: list[ProcessRunner] = []

    def make(backend: str = "scripted", path: str = "", **listeners: object) -> ProcessRunner:
        made.append(ProcessRunner(backend, path, CONFIG, **listeners))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for runner in made:
        await runner.close()


def kill(runner: ProcessRunner) -> None:
    assert runner.process_id is not None
    os.kill(runner.process_id, signal.SIGKILL)


async def lose(runner: ProcessRunner) -> None:
    """Kill the worker in a step, and wait until that is known."""
    assert runner.process_id is not None
    os.kill(runner.process_id, signal.SIGSTOP)
    pending = runner.begin(STEP)
    kill(runner)
    with pytest.raises(RunnerLost):
        await pending


async def test_start_step_close(make_runner: MakeRunner) -> None:
    runner = make_runner()
    assert runner.process_id is None
    assert runner.memory_bytes == 0
    report = await runner.start()
    assert report == runner.report
    assert runner.capabilities.slots == 2
    process = psutil.Process(runner.process_id)
    assert runner.memory_bytes > 1_000_000
    result = await runner.begin(STEP)
    assert (result.number, result.runs) == (1, EXPECTED)
    assert result.seconds > 0
    await runner.close()
    assert not process.is_running()
    assert runner.process_id is None
    assert runner.memory_bytes == 0


async def test_closing_twice_and_before_starting(make_runner: MakeRunner) -> None:
    runner = make_runner()
    await runner.close()
    await runner.start()
    await asyncio.gather(runner.close(), runner.close())
    await runner.close()


async def test_before_it_is_started(make_runner: MakeRunner) -> None:
    runner = make_runner()
    with pytest.raises(RuntimeError, match="not started"):
        runner.begin(STEP)
    with pytest.raises(RuntimeError, match="not started"):
        _ = runner.capabilities


async def test_progress(make_runner: MakeRunner, tiny_model_path: Path) -> None:
    told: list[float] = []
    runner = make_runner("llama.cpp", str(tiny_model_path), on_progress=told.append)
    report = await runner.start()
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert sum(report.memory_bytes.values()) > 10_000_000


@pytest.mark.parametrize("content", [None, b"no model at all"])
async def test_load_errors(make_runner: MakeRunner, content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    lost: list[None] = []
    runner = make_runner("llama.cpp", str(path), on_idle_loss=lambda: lost.append(None))
    with pytest.raises(ModelFileError, match=str(path)):
        await runner.start()
    assert runner.process_id is None
    assert lost == []


async def test_a_worker_that_dies_while_loading(make_runner: MakeRunner) -> None:
    runner = make_runner()
    starting = asyncio.ensure_future(runner.start())
    await until(lambda: runner.process_id is not None)
    kill(runner)
    with pytest.raises(LoadError, match="ended while loading"):
        await starting
    assert runner.process_id is None


async def test_a_backend_that_raises_something_else(
    make_runner: MakeRunner,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(faulty_backend.__file__).parent))
    with pytest.raises(LoadError, match="ended while loading"):
        await make_runner("faulty_backend:UnloadableBackend").start()
    assert "TypeError: 3 arguments" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["os:path", "json:loads", "json:JSONDecoder"])
async def test_what_is_not_a_backend(
    make_runner: MakeRunner, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    with pytest.raises(LoadError, match=f"'{name}' is not a backend"):
        await make_runner(name).start()
    assert not capfd.readouterr().err


@pytest.mark.parametrize("name", ["nothing", "nowhere:Backend", "json:Backend"])
async def test_a_backend_that_is_not_there(make_runner: MakeRunner, name: str) -> None:
    with pytest.raises(LoadError, match=f"no backend '{name}'.*there are llama.cpp") as raised:
        await make_runner(name).start()
    assert "\n" not in str(raised.value)


async def test_a_step_that_crashes_the_worker(
    make_runner: MakeRunner, capfd: pytest.CaptureFixture[str]
) -> None:
    runner = make_runner()
    await runner.start()
    with pytest.raises(RunnerLost):
        await runner.begin(BROKEN)
    with pytest.raises(RunnerLost):
        await runner.begin(STEP)
    assert "ContractViolation" in capfd.readouterr().err
    await runner.recover()
    assert (await runner.begin(STEP)).runs == EXPECTED


async def test_a_worker_that_is_killed_in_a_step(make_runner: MakeRunner) -> None:
    states: list[LoadReport | None] = []
    lost: list[None] = []
    runner = make_runner(on_state=states.append, on_idle_loss=lambda: lost.append(None))
    report = await runner.start()
    killed = runner.process_id
    assert killed is not None
    await lose(runner)
    assert states == []
    await runner.recover()
    assert states == [None, report]
    assert runner.process_id != killed
    assert not psutil.pid_exists(killed)
    assert (await runner.begin(STEP)).runs == EXPECTED
    assert lost == []


async def test_a_worker_that_is_killed_between_steps(make_runner: MakeRunner) -> None:
    lost = asyncio.Event()
    runner = make_runner(on_idle_loss=lost.set)
    await runner.start()
    await runner.begin(STEP)
    kill(runner)
    await lost.wait()
    await runner.recover()
    lost.clear()
    assert (await runner.begin(STEP)).runs == EXPECTED
    await runner.close()
    assert not lost.is_set()


class Stubborn(ProcessRunner):
    """Cannot be started a few times."""

    failures = 0

    async def start(self, on_vocabulary_read: Callable[[], None] | None = None) -> LoadReport:
        if self.failures:
            self.failures -= 1
            raise LoadError("not yet") if self.failures % 2 else OSError("no processes left")
        return await super().start(on_vocabulary_read)


async def test_recovery_backs_off(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(host.asyncio, "sleep", sleep)  # type: ignore[attr-defined]
    states: list[LoadReport | None] = []
    losses: list[tuple[RunnerLoss, float]] = []
    runner = Stubborn(
        "scripted",
        "",
        CONFIG,
        on_state=states.append,
        on_loss=lambda loss, delay: losses.append((loss, delay)),
        supervision=Supervision(restart_delay_seconds_max=1.0),
    )
    await runner.start()
    await lose(runner)
    runner.failures = 6
    await runner.recover()
    # It died in its first step: the next is started at once, all others later and later.
    assert slept == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert states == [None] * 7 + [runner.report]
    assert [delay for _, delay in losses] == [0.0, *slept]
    reasons = [loss.reason.value for loss, _ in losses]
    assert reasons == ["killed"] + ["not_loaded"] * 6
    assert losses[-1][0].description == "no processes left"
    assert (await runner.begin(STEP)).runs == EXPECTED
    # It has done a step, so its next loss is the first of its kind.
    await lose(runner)
    await runner.recover()
    assert slept[6:] == []
    await runner.close()


async def test_a_worker_that_replaces_another_measures_nothing_again(
    make_runner: MakeRunner, tiny_quantized_model_path: Path
) -> None:
    runner = make_runner("llama.cpp", str(tiny_quantized_model_path))
    first = await runner.start()
    assert first.capabilities.batch_invariant
    expected = await runner.begin(STEP)
    await lose(runner)
    await runner.recover()
    # To the last bit of what was measured.
    assert runner.report.capabilities == first.capabilities
    assert (await runner.begin(STEP)).runs == expected.runs


async def test_what_is_killed_from_outside_while_it_loads_is_soon_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(host.asyncio, "sleep", sleep)  # type: ignore[attr-defined]
    killed = host.DiedLoading(loss_from_exit_code(-signal.SIGKILL))

    class Killed(ProcessRunner):
        failures = 9

        async def start(self, *arguments: Any) -> LoadReport:
            self.failures -= 1
            if self.failures > 0:
                raise killed
            return await super().start(*arguments)

    runner = Killed("scripted", "", CONFIG)
    await runner.recover()
    assert slept == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0]
    await runner.close()


async def test_a_start_that_is_cancelled_leaves_nothing(make_runner: MakeRunner) -> None:
    runner = make_runner()
    starting = asyncio.ensure_future(runner.start())
    await until(lambda: runner.process_id is not None)
    process = psutil.Process(runner.process_id)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await runner.close()
    assert not process.is_running()


async def test_a_worker_that_does_not_end_is_killed(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "EXIT_GRACE_SECONDS", 0.05)
    runner = make_runner()
    await runner.start()
    process = psutil.Process(runner.process_id)
    process.suspend()
    await runner.close()
    assert not process.is_running()


async def test_who_is_cancelled_while_closing_leaves_the_wait_to_the_next(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "EXIT_GRACE_SECONDS", 0.2)
    runner = make_runner()
    await runner.start()
    process = psutil.Process(runner.process_id)
    process.suspend()
    closing = asyncio.ensure_future(runner.close())
    await until(lambda: runner.process_id is None)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await runner.close()
    assert not process.is_running()


async def test_terminals_and_service_managers_do_not_end_a_worker(
    make_runner: MakeRunner,
) -> None:
    runner = make_runner()
    await runner.start()
    assert runner.process_id is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(runner.process_id, number)
    assert (await runner.begin(STEP)).runs == EXPECTED
    assert os.getsid(runner.process_id) != os.getsid(0)


async def until(holds: Callable[[], bool]) -> None:
    """Let the event loop turn until something holds."""
    while not holds():  # noqa: ASYNC110 - what it waits for has no event
        await asyncio.sleep(0)
