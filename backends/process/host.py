"""The host's side of a runner: starts the worker process, watches it, and replaces it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import psutil

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.backend import BackendConfig, LoadError, LoadReport
from llm_serving_engine.backends.memory_estimate import size
from llm_serving_engine.backends.models.abort_messages import explain, shorten
from llm_serving_engine.backends.models.errors import ModelError, ModelFileError
from llm_serving_engine.backends.models.identity import FileIdentity, check_unchanged
from llm_serving_engine.backends.process.connection import Connection
from llm_serving_engine.backends.process.runner_loss import (
    LossReason,
    RunnerLoss,
    loss_from_exit_code,
)
from llm_serving_engine.backends.process.supervision import Backoff, Supervision
from llm_serving_engine.backends.process.wire import Load
from llm_serving_engine.backends.runner import RunnerLost
from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.step import Capabilities, Step, StepResult

EXIT_GRACE_SECONDS = 1.0
MEMORY_POLL_SECONDS = 0.5
# A worker that was killed from outside can be loaded again, so its delay is short.
OUTSIDE_DELAY_SECONDS_MAX = 1.0
_STOPPED = frozenset({psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP})


class DiedLoading(LoadError):
    """The worker process ended while loading, without an error message."""

    def __init__(self, loss: RunnerLoss) -> None:
        super().__init__(f"the runner's process ended while loading: {loss.description}")
        self.loss = loss


class ProcessRunner:
    """Runs a model in a worker process. Call `start` first.

    Attributes:
        steps_max: Steps in flight: the worker computes one, its socket holds another.
    """

    steps_max = 2

    def __init__(
        self,
        backend: str,
        path: str,
        config: BackendConfig | None = None,
        on_progress: Callable[[float], None] | None = None,
        on_state: Callable[[LoadReport | None], None] | None = None,
        on_idle_loss: Callable[[], None] | None = None,
        on_loss: Callable[[RunnerLoss, float], None] | None = None,
        supervision: Supervision | None = None,
    ) -> None:
        """Describe a runner.

        Args:
            backend: The backend's name in the registry.
            path: The model's file.
            config: The backend's configuration.
            on_progress: Called with the loaded fraction, from 0 to 1.
            on_state: Called with None when the runner is lost and at each
                restart, and with the load report when it is ready again.
            on_idle_loss: Called when the worker dies while no step is in flight:
                the caller then calls `recover`. Otherwise the step's future fails.
            on_loss: Called with the reason of a loss or of a failed restart, and
                with the seconds until the next start.
            supervision: The time limits and restart delays.
        """
        self._path = Path(path)
        self._identity: tuple[FileIdentity | None, ...] = ()
        self._load = Load(backend, path, config or BackendConfig())
        self._on_progress = on_progress or (lambda fraction: None)
        self._on_state = on_state or (lambda report: None)
        self._on_idle_loss = on_idle_loss or (lambda: None)
        self._on_loss = on_loss or (lambda loss, delay: None)
        self._supervision = supervision or Supervision()
        self._backoff = Backoff(self._supervision)
        self._connection: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: asyncio.Future[int] | None = None
        self._memory_watch: asyncio.Task[None] | None = None
        self._report: LoadReport | None = None
        self._costs = CostModel()
        self._given_up: RunnerLoss | None = None
        self._lost: RunnerLoss | None = None
        self._served = False
        self._oom_kills = 0

    @property
    def report(self) -> LoadReport:
        """The report of the last load. Raises RuntimeError before `start` has returned."""
        if self._report is None:
            raise RuntimeError("the runner is not started")
        return self._report

    @property
    def capabilities(self) -> Capabilities:
        """The loaded model's capabilities."""
        return self.report.capabilities

    @property
    def process_id(self) -> int | None:
        """The worker's process id, while there is one."""
        return None if self._process is None else self._process.pid

    @property
    def memory_bytes(self) -> int:
        """The worker's resident memory; 0 while there is none."""
        try:
            return (
                0 if self.process_id is None else psutil.Process(self.process_id).memory_info().rss
            )
        except psutil.Error:
            return 0

    async def start(self, on_vocabulary_read: Callable[[], None] | None = None) -> LoadReport:
        """Start the worker and load the model.

        Args:
            on_vocabulary_read: If given, the worker reads the vocabulary first,
                and this is called when that has succeeded.

        Raises:
            LoadError: The model cannot be loaded; DiedLoading: the worker died while loading.
            ModelFileError: The model's file cannot be used, or has changed since
                the first load.
        """
        identity = FileIdentity.of(self._path)
        if self._identity:
            check_unchanged(self._path, self._identity)
        try:
            connection = await self._spawn(on_vocabulary_read)
            self._report = await connection.loaded
            self._costs = CostModel(self.capabilities.speeds)
        except RunnerLost:
            raise self._load_error(await self._reap(), connection.abort_message) from None
        except BaseException:
            await self.close()
            raise
        self._identity = identity
        self._keep_shape()
        return self._report

    def begin(self, step: Step) -> asyncio.Future[StepResult]:
        """Send a step to the worker; return the future of its result."""
        if self._connection is None:
            raise RuntimeError("the runner is not started")
        seconds = self._supervision.step_seconds(step, self._costs)
        return self._connection.send_step(step, seconds)

    def recall(self, number: int) -> None:
        """Ask the worker to skip a step. The step's result says whether it did."""
        if self._connection is not None:
            self._connection.recall(number)

    async def reap(self) -> bool:
        """Wait until a lost worker has ended; return whether the cause was outside."""
        self._lost = await self._reap()
        return self._lost.outside

    async def recover(self) -> None:
        """Replace a lost worker; retry with back-off until a load succeeds."""
        self._on_state(None)
        loss, self._lost = self._lost or await self._reap(), None
        served = self._served
        while True:
            delay = self._backoff.delay(served=served)
            if loss.outside:
                delay = min(delay, OUTSIDE_DELAY_SECONDS_MAX)
            self._on_loss(loss, delay)
            if delay:
                await asyncio.sleep(delay)
                self._on_state(None)
            try:
                self._on_state(await self.start())
                return
            except (LoadError, ModelError, OSError) as error:
                outside = isinstance(error, DiedLoading) and error.loss.outside
                loss, served = RunnerLoss(LossReason.NOT_LOADED, str(error), outside), False

    async def close(self) -> None:
        """End the worker, and wait until it has gone."""
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        watch, self._memory_watch = self._memory_watch, None
        if watch is not None:
            watch.cancel()
        if connection is not None:
            connection.close()
        if process is not None:
            self._ending = asyncio.get_running_loop().run_in_executor(None, _end, process)
        if self._ending is not None:
            # Shielded: a cancelled caller must not end the wait of the next one.
            await asyncio.shield(self._ending)

    async def _spawn(self, on_vocabulary_read: Callable[[], None] | None) -> Connection:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            loop = asyncio.get_running_loop()
            _, self._connection = await loop.create_connection(
                lambda: Connection(
                    self._on_progress,
                    on_vocabulary_read or (lambda: None),
                    self._on_idle_loss,
                    self._fault,
                ),
                sock=ours,
            )
            command = [sys.executable, "-m", "llm_serving_engine.backends.process.worker"]
            # Starting takes a millisecond, and Popen can be waited for from any thread.
            self._process = subprocess.Popen(  # noqa: ASYNC220
                [*command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={"GGML_NO_BACKTRACE": "1", **os.environ},
                # A terminal's Ctrl-C is the host's affair, from the worker's first moment.
                start_new_session=True,
            )
        self._oom_kills = machine.oom_kills()
        if self._load.config.memory_bytes_max is not None:
            watch = self._watch_memory(self._load.config.memory_bytes_max)
            self._memory_watch = loop.create_task(watch, name="memory watch")
        load = self._load._replace(read_vocabulary=on_vocabulary_read is not None)
        self._connection.send_load(load, self._supervision.load_silence_seconds_max)
        return self._connection

    def _keep_shape(self) -> None:
        """Fix the shape of later workers to that of the first.

        The scheduler plans with the first worker's slots and context. Values that
        the configuration leaves open depend on free memory, and could change.
        """
        assert self._report is not None
        shape = self.capabilities
        config = replace(
            self._load.config,
            sequences=shape.slots,
            context_per_sequence=shape.context,
            prefill_chunk=shape.chunk,
            # Other kernels would give different results in the last bits.
            kernels=self._report.settings.get("kernels", self._load.config.kernels),
        )
        config = _with_attention(config, self._report.settings)
        self._load = self._load._replace(config=config, earlier=shape)

    # The end of a worker

    def _fault(self, reason: LossReason, what: str) -> None:
        stopped = reason is LossReason.HUNG and self._stopped()
        description = f"{what}: its process was stopped" if stopped else what
        self._give_up(RunnerLoss(reason, description, outside=stopped))

    def _stopped(self) -> bool:
        """Whether a signal has stopped the worker."""
        try:
            return psutil.Process(self.process_id).status() in _STOPPED
        except psutil.Error:
            return False

    async def _watch_memory(self, limit: int) -> None:
        while True:
            taken = self.memory_bytes
            if taken > limit:
                numbers = f"{size(taken)}, and memory_bytes_max is {size(limit)}"
                self._give_up(RunnerLoss(LossReason.OUT_OF_MEMORY, f"it took {numbers}"))
                return
            await asyncio.sleep(MEMORY_POLL_SECONDS)

    def _give_up(self, loss: RunnerLoss) -> None:
        """Kill a worker that is no longer usable."""
        if self._process is None or self._connection is None:
            return
        self._given_up = loss
        # SIGKILL: the only signal that ends a stopped process.
        self._process.kill()
        self._connection.abort()

    async def _reap(self) -> RunnerLoss:
        """Wait until a lost worker has ended; return why it was lost."""
        abort_message = None
        if self._connection is not None:
            self._served, abort_message = self._connection.served, self._connection.abort_message
        await self.close()
        loss, self._given_up = self._given_up, None
        if loss is None and abort_message is not None:
            loss = RunnerLoss(
                LossReason.CRASHED, f"llama.cpp ended its process: {shorten(abort_message)}"
            )
        code = None if self._ending is None else self._ending.result()
        return loss or loss_from_exit_code(code, memory_short=machine.oom_kills() > self._oom_kills)

    def _load_error(self, loss: RunnerLoss, abort_message: str | None) -> Exception:
        """Make the error of a worker that died while loading; an abort message blames the file."""
        if abort_message is not None:
            return ModelFileError(f"{self._path} cannot be loaded: {explain(abort_message)}")
        return DiedLoading(loss)


def _with_attention(config: BackendConfig, settings: Mapping[str, str]) -> BackendConfig:
    """Fix the chosen attention in the configuration: another one changes the last bits.

    Args:
        config: The configuration.
        settings: The settings that a load has chosen, as texts.
    """
    flash = settings.get("flash_attention")
    if flash is None:
        return config
    return replace(config, flash_attention=flash == "on", cache_type=settings["cache_type"])


def _end(process: subprocess.Popen[bytes]) -> int:
    """Wait for a worker whose socket is closed; kill it if it does not end by itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(EXIT_GRACE_SECONDS)
    process.kill()
    return process.wait()
