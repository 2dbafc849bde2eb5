"""Keeps a model's engine alive: one that fails is built anew, on a runner of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from llm_serving_engine.backends.backend import LoadReport
from llm_serving_engine.backends.process.host import ProcessRunner
from llm_serving_engine.server.engine.engine import Engine

_logger = logging.getLogger(__name__)

# An engine that ran for so long begins with a clean slate.
STEADY_SECONDS = 60.0


class EngineSupervisor:
    """Runs one engine after the other until one lasts, or too many have failed.

    Attributes:
        engine: The engine that runs; None while there is none.
        on_change: Called when `engine` is another.
        on_given_up: Told in one line why no more engines are built.
    """

    def __init__(
        self,
        name: str,
        runner: ProcessRunner,
        build: Callable[[LoadReport], Engine],
        failures_max: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Describe the engines of a model; none runs yet.

        Args:
            name: The model's.
            runner: What they run on. It is started anew for each but the first.
            build: Makes an engine, from what loading the runner came to.
            failures_max: How many engines may fail, each within a minute.
            clock: In seconds.
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
        """Run the first engine. Raises whatever building it raises."""
        engine = self.engine = self._build(report)
        self._task = asyncio.create_task(self._supervise(engine), name=f"engine {self._name}")

    async def close(self) -> None:
        """End the engine; the runner stays."""
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
        """Build another engine, on a new runner: nobody knows what the old one holds."""
        await self._runner.close()
        report = await self._runner.start()
        engine = self.engine = self._build(report)
        self.on_change()
        return engine

    def _give_up(self, reason: str) -> None:
        self.on_given_up(f"the engine of model {self._name} cannot go on: {reason}")
