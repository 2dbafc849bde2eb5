"""Runners that hang, take too much, or die of something: found, named, and replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import psutil
import pytest
import pytest_asyncio

from llm_serving_engine.backends.backend import BackendConfig, LoadError, LoadReport
from llm_serving_engine.backends.process import host, worker
from llm_serving_engine.backends.process.host import ProcessRunner
from llm_serving_engine.backends.process.runner_loss import (
    OUT_OF_MEMORY_CODE,
    LossReason,
    RunnerLoss,
    loss_from_exit_code,
)
from llm_serving_engine.backends.process.supervision import SLOWDOWN_MAX, Backoff, Supervision
from llm_serving_engine.backends.runner import RunnerLost
from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.scheduler.step import Open, Output, Run, Step

CONFIG = BackendConfig(sequences=2, context_per_sequence=256, threads=1)
STEP = Step(1, (Open(0, Sampling()),), (Run(0, 0, 0, (1, 2, 3), output=Output.SAMPLE),))
# Long enough for a step of a worker that works.
SUPERVISION = Supervision(step_seconds_max=3.0)


class Watched:
    """A runner, and what it has told."""

    def __init__(self, config: BackendConfig, supervision: Supervision) -> None:
        self.states: list[LoadReport | None] = []
        self.losses: list[tuple[RunnerLoss, float]] = []
        self.idle_loss = asyncio.Event()
        self.runner = ProcessRunner(
            "scripted",
            "",
            config,
            on_state=self.states.append,
            on_idle_loss=self.idle_loss.set,
            on_loss=lambda loss, delay: self.losses.append((loss, delay)),
            supervision=supervision,
        )

    def signal(self, number: signal.Signals) -> int:
        process_id = self.runner.process_id
        assert process_id is not None
        os.kill(process_id, number)
        return process_id

    async def works(self) -> bool:
        """Whether it does a step."""
        return bool((await self.runner.begin(STEP)).runs[0].tokens)


@pytest_asyncio.fixture
async def watch() -> AsyncIterator[Callable[..., Watched]]:
    """Makes runners that are watched, and closed at the end."""
    made: list[Watched] = []

    def make(config: BackendConfig = CONFIG, supervision: Supervision = SUPERVISION) -> Watched:
        made.append(Watched(config, supervision))
        return made[-1]

    yield make
    for watched in made:
        await watched.runner.close()


async def test_a_worker_that_hangs_in_a_step(watch: Callable[..., Watched]) -> None:
    watched = watch()
    await watched.runner.start()
    # Between steps nobody can tell; its next step does.
    hung = watched.signal(signal.SIGSTOP)
    with pytest.raises(RunnerLost):
        await watched.runner.begin(STEP)
    await watched.runner.recover()
    description = "a step took longer than 3 s: its process was stopped"
    assert watched.losses == [(RunnerLoss(LossReason.HUNG, description, outside=True), 0.0)]
    assert not psutil.pid_exists(hung)
    assert not watched.idle_loss.is_set()
    assert await watched.works()


async def test_a_server_that_was_stopped_itself_waits_anew(
    watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = watch(supervision=Supervision(step_seconds_max=30.0))
    await watched.runner.start()
    hung = watched.signal(signal.SIGSTOP)
    # On a busy machine it takes the signal later.
    await until(lambda: psutil.Process(hung).status() == psutil.STATUS_STOPPED)
    step = asyncio.ensure_future(watched.runner.begin(STEP))
    loop = asyncio.get_running_loop()
    clock, passed = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: clock() + passed)
    await asyncio.sleep(0)
    # As after a pause of the container that both are in.
    passed += 300.0
    await asyncio.sleep(0.001)
    assert not step.done()
    passed += 30.0
    with pytest.raises(RunnerLost):
        await step
    assert await watched.runner.reap()
    assert not psutil.pid_exists(hung)


async def test_a_worker_that_hangs_while_loading(watch: Callable[..., Watched]) -> None:
    watched = watch(supervision=Supervision(load_silence_seconds_max=0.1))
    starting = asyncio.ensure_future(watched.runner.start())
    await until(lambda: watched.runner.process_id is not None)
    hung = watched.signal(signal.SIGSTOP)
    with pytest.raises(LoadError, match=r"while loading: loading got no further for 100 ms"):
        await starting
    assert not psutil.pid_exists(hung)


@pytest.mark.parametrize(
    ("number", "reason", "words"),
    [
        (signal.SIGKILL, LossReason.KILLED, "was killed (SIGKILL)"),
        (signal.SIGSEGV, LossReason.CRASHED, "was ended by SIGSEGV"),
        (signal.SIGABRT, LossReason.CRASHED, "was ended by SIGABRT"),
    ],
)
async def test_what_it_died_of(
    watch: Callable[..., Watched], number: signal.Signals, reason: LossReason, words: str
) -> None:
    watched = watch()
    await watched.runner.start()
    watched.signal(number)
    await watched.idle_loss.wait()
    await watched.runner.recover()
    ((loss, _),) = watched.losses
    assert loss.reason is reason
    assert words in loss.description


async def test_a_worker_that_takes_too_much(
    watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "MEMORY_POLL_SECONDS", 0.01)
    memory = 10**6
    monkeypatch.setattr(ProcessRunner, "memory_bytes", property(lambda runner: memory))
    config = BackendConfig(sequences=2, memory_bytes_max=10**9)
    watched = watch(config)
    await watched.runner.start()
    assert await watched.works()
    memory = 2 * 10**9
    await watched.idle_loss.wait()
    memory = 10**6
    await watched.runner.recover()
    assert watched.losses[0][0] == RunnerLoss(
        LossReason.OUT_OF_MEMORY, "it took 2,000 MB, and memory_bytes_max is 1,000 MB"
    )
    assert await watched.works()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to RLIMIT_DATA")
def test_a_worker_is_held_to_its_memory() -> None:
    code = (
        "from llm_serving_engine.backends.process import limits\n"
        "limits.limit_memory(64 << 20)\n"
        "assert bytearray(100 << 20)\n"
        "try:\n"
        "    bytearray(400 << 20)\n"
        "except MemoryError:\n"
        "    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"


def test_a_worker_says_that_it_lacked_memory(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise MemoryError
    except MemoryError:
        assert worker._report_crash() == OUT_OF_MEMORY_CODE
    assert "MemoryError" in capsys.readouterr().err


async def test_later_workers_are_like_the_first(watch: Callable[..., Watched]) -> None:
    watched = watch(BackendConfig())
    first = (await watched.runner.start()).capabilities
    config = watched.runner._load.config
    assert (config.sequences, config.context_per_sequence) == first[:2]
    assert watched.runner._load.earlier == first


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a stopped process cannot be reached")
def test_a_stopped_worker_does_not_outlive_its_host() -> None:
    code = (
        "import asyncio, signal, os\n"
        "from llm_serving_engine.backends.process.host import ProcessRunner\n"
        "async def main():\n"
        "    runner = ProcessRunner('scripted', '')\n"
        "    await runner.start()\n"
        "    os.kill(runner.process_id, signal.SIGSTOP)\n"
        "    print(runner.process_id, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        worker_process = psutil.Process(int(process.stdout.readline()))
        process.kill()
        worker_process.wait(30)


@pytest.mark.parametrize(
    ("code", "short", "reason", "words"),
    [
        (-9, False, LossReason.KILLED, "its process was killed (SIGKILL)"),
        (-9, True, LossReason.OUT_OF_MEMORY, "the system killed it for lack of memory"),
        (OUT_OF_MEMORY_CODE, False, LossReason.OUT_OF_MEMORY, "could not get more memory"),
        (-6, True, LossReason.CRASHED, "its process was ended by SIGABRT"),
        (-99, False, LossReason.CRASHED, "its process was ended by signal 99"),
        (1, False, LossReason.CRASHED, "its process ended with exit code 1"),
        (None, False, LossReason.CRASHED, "its process ended"),
    ],
)  # fmt: skip
def test_loss_of(code: int | None, short: bool, reason: LossReason, words: str) -> None:
    loss = loss_from_exit_code(code, memory_short=short)
    assert loss.reason is reason
    assert loss.description.endswith(words)


def test_backoff() -> None:
    backoff = Backoff(Supervision(restart_delay_seconds_max=1.0))
    served = [True, True, False, False, False, False, False, False, True, False, False]
    delays = [backoff.delay(served=one) for one in served]
    assert delays == [0.0, 0.0, 0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 0.0, 0.0, 0.1]
    assert max(backoff.delay(served=False) for _ in range(5000)) == 1.0


def test_slow_models_get_more_time() -> None:
    step = Step(1, (), (Run(0, 0, 0, (1, 2, 3)),))
    slow = CostModel([(step.shape, 2.0)])
    supervision = Supervision(step_seconds_max=30.0)
    assert supervision.step_seconds(step, slow) == pytest.approx(SLOWDOWN_MAX * 2.0)
    assert supervision.step_seconds(step, CostModel()) == 30.0


@pytest.mark.parametrize("name", ["step_seconds_max", "restart_delay_seconds_max"])
def test_no_time_at_all(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; it must be above 0"):
        Supervision(**{name: 0})
    Supervision(restart_grace_seconds=0)
    with pytest.raises(ValueError, match="restart_grace_seconds is -1; it must be at least 0"):
        Supervision(restart_grace_seconds=-1)


async def until(holds: Callable[[], bool]) -> None:
    """Let the event loop turn until something holds."""
    while not holds():  # noqa: ASYNC110 - what it waits for has no event
        await asyncio.sleep(0)
