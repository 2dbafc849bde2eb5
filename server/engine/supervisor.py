"""Restarts a model's engine after a failure, on a new runner."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from llm_serving_engine.backends.backend import LoadReport
from llm_serving_engine.backends.process.host import ProcessRunner
from llm_serving_engine.server.engine.engine import Engine

_logger = logging.getLogger(__name__)

# After this time without a failure, earlier failures no longer count.
STEADY_SECONDS = 60.0


class EngineSupervisor:
    """Runs an engine; replaces it when it fails, until too many have failed.

    Attributes:
        engine: The running engine; None while there is none.
        on_change: Called when `engine` has changed.
        on_given_up: Called with the reason, in one line, when no more engines are built.
    """

    def __init__(
        self,
        name: str,
        runner: ProcessRunner,
        build: Callable[[LoadReport], Engine],
        failures_max: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the supervision of a model's engine; `start` runs it.

        Args:
            name: The model's name.
            runner: The engine's runner. It is restarted for each engine but the first.
            build: Makes an engine from the runner's load report.
            failures_max: Engines that may fail in a row, each within a minute.
            clock: The time in seconds.
        """
        self.engine: Engine | None = None
        self.on_change: Callable[[], None] = lambda: None
        self.on_given_up: Callable[[str], None] = lambda message: None
        self._name = name
        self._runner = runner
        self._build = build
        self._failures_max = failures_max
        self._clock = clock
        self._failures = 0
        self._task: asyncio.Task[None] | None = None

    def start(self, report: LoadReport) -> None:
        """Build and run the first engine. Raises what `build` raises."""
        engine = self.engine = self._build(report)
        self._task = asyncio.create_task(self._supervise(engine), name=f"engine {self._name}")

    async def close(self) -> None:
        """Stop the engine; the runner keeps running."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _supervise(self, engine: Engine) -> None:
        while True:
            began = self._clock()
            try:
                await engine.run()
            except Exception:
                _logger.critical("the engine of model %s failed", self._name, exc_info=True)
            self.engine = None
            if self._clock() - began >= STEADY_SECONDS:
                self._failures = 0
            self._failures += 1
            self.on_change()
            if self._failures >= self._failures_max:
                count = "once" if self._failures == 1 else f"{self._failures} times in a row"
                self._give_up(f"it failed soon after its start, {count}")
                return
            try:
                engine = await self._rebuild()
            except Exception as error:
                _logger.critical("another could not be built", exc_info=True)
                self._give_up(f"another could not be built: {error}")
                return

    async def _rebuild(self) -> Engine:
        """Build another engine on a new runner: the state of the old one is unknown."""
        await self._runner.close()
        report = await self._runner.start()
        engine = self.engine = self._build(report)
        self.on_change()
        return engine

    def _give_up(self, reason: str) -> None:
        self.on_given_up(f"the engine of model {self._name} cannot go on: {reason}")
