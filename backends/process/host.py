"""The host's side of a runner: starts the worker, speaks to it, brings it back."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable

import psutil

from llm_serving_engine.backends.backend import BackendConfig, LoadError, LoadReport
from llm_serving_engine.backends.process.wire import (
    FrameReader,
    Load,
    Loaded,
    LoadFailed,
    Message,
    Progress,
    encode,
)
from llm_serving_engine.scheduler.runner import RunnerLost
from llm_serving_engine.scheduler.step import Capabilities, Step, StepResult

BACKOFF_FIRST_SECONDS = 0.1
BACKOFF_MAX_SECONDS = 30.0
EXIT_GRACE_SECONDS = 5.0


class ProcessRunner:
    """A model in a process of its own. Start it before anything else."""

    def __init__(
        self,
        backend: str,
        path: str,
        config: BackendConfig | None = None,
        on_progress: Callable[[float], None] | None = None,
        on_state: Callable[[LoadReport | None], None] | None = None,
        on_idle_loss: Callable[[], None] | None = None,
    ) -> None:
        """Describe a runner.

        Args:
            backend: Its name in the registry.
            path: The model's file.
            config: How to run it.
            on_progress: Told the loaded fraction, from 0 to 1.
            on_state: Told None when the runner is lost, and its report when it
                is back.
            on_idle_loss: Told when the worker dies while no step is under way:
                it is time to `recover`. Otherwise the step says so.
        """
        self._load = Load(backend, path, config or BackendConfig())
        self._on_progress = on_progress or (lambda fraction: None)
        self._on_state = on_state or (lambda report: None)
        self._on_idle_loss = on_idle_loss or (lambda: None)
        self._connection: _Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: asyncio.Future[None] | None = None
        self._report: LoadReport | None = None

    @property
    def report(self) -> LoadReport:
        """What loading came to. Raises RuntimeError before `start` has returned."""
        if self._report is None:
            raise RuntimeError("the runner is not started")
        return self._report

    @property
    def capabilities(self) -> Capabilities:
        """What the loaded model can do."""
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

    async def start(self) -> LoadReport:
        """Start the worker and load the model.

        Raises:
            LoadError: The model cannot be loaded, or the worker died loading it.
        """
        try:
            connection = await self._spawn()
            self._report = await connection.loaded
        except BaseException:
            await self.close()
            raise
        return self._report

    def begin(self, step: Step) -> asyncio.Future[StepResult]:
        """Send a step. It is on its way when this returns."""
        if self._connection is None:
            raise RuntimeError("the runner is not started")
        return self._connection.send_step(step)

    async def recover(self) -> None:
        """Replace a lost worker, with back-off, for as long as it takes."""
        self._on_state(None)
        delay = BACKOFF_FIRST_SECONDS
        while True:
            await self.close()
            try:
                self._on_state(await self.start())
                return
            except (LoadError, OSError):
                await asyncio.sleep(delay)
                delay = min(delay * 2, BACKOFF_MAX_SECONDS)

    async def close(self) -> None:
        """End the worker, and wait until it has gone."""
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if process is not None:
            self._ending = asyncio.get_running_loop().run_in_executor(None, _end, process)
        if self._ending is not None:
            # Whoever is cancelled here leaves the rest of the wait to the next.
            await asyncio.shield(self._ending)

    async def _spawn(self) -> _Connection:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            loop = asyncio.get_running_loop()
            _, self._connection = await loop.create_connection(
                lambda: _Connection(self._on_progress, self._on_idle_loss), sock=ours
            )
            command = [sys.executable, "-m", "llm_serving_engine.backends.process.worker"]
            # Starting takes a millisecond, and Popen can be waited for from any thread.
            self._process = subprocess.Popen(  # noqa: ASYNC220
                [*command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # A terminal's Ctrl-C is the host's affair, from the worker's first moment.
                start_new_session=True,
            )
        self._connection.send(self._load)
        return self._connection


class _Connection(asyncio.Protocol):
    """One worker's socket, from its start to its end."""

    def __init__(
        self, on_progress: Callable[[float], None], on_idle_loss: Callable[[], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        self.loaded: asyncio.Future[LoadReport] = loop.create_future()
        self._result: asyncio.Future[StepResult] | None = None
        self._on_progress = on_progress
        self._on_idle_loss = on_idle_loss
        self._serving = False
        self._frames = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._lost = False

    def send(self, message: Message) -> None:
        assert self._transport is not None
        self._transport.write(encode(message))

    def send_step(self, step: Step) -> asyncio.Future[StepResult]:
        self._result = asyncio.get_running_loop().create_future()
        if self._lost:
            self._result.set_exception(RunnerLost("the runner's process has ended"))
        else:
            self.send(step)
        return self._result

    def close(self) -> None:
        self._serving = False
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for message in self._frames.feed(data):
            self._received(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if not self.loaded.done():
            self.loaded.set_exception(LoadError("the runner's process ended while loading"))
            self.loaded.exception()  # whoever starts the runner may have gone
        elif self._result is not None and not self._result.done():
            self._result.set_exception(RunnerLost("the runner's process ended"))
        elif self._serving:
            self._on_idle_loss()

    def _received(self, message: Message) -> None:
        if isinstance(message, StepResult):
            if self._result is not None and not self._result.done():
                self._result.set_result(message)
        elif isinstance(message, Progress):
            self._on_progress(message.fraction)
        elif isinstance(message, Loaded) and not self.loaded.done():
            self._serving = True
            self.loaded.set_result(message.report)
        elif isinstance(message, LoadFailed) and not self.loaded.done():
            self.loaded.set_exception(LoadError(message.reason))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a worker whose socket is closed; kill it where it does not end by itself."""
    try:
        process.wait(EXIT_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
