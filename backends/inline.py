"""A runner in the server's own process: for tests, and for backends that cannot fail."""

from __future__ import annotations

import asyncio

from llm_serving_engine.backends.backend import Backend
from llm_serving_engine.scheduler.step import Capabilities, Step, StepResult


class InlineRunner:
    """Executes each step at once, and gives its result when the event loop comes round."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def capabilities(self) -> Capabilities:
        """What the backend can do."""
        return self._backend.report.capabilities

    async def begin(self, step: Step) -> StepResult:
        """Execute a step."""
        await asyncio.sleep(0)
        return self._backend.execute(step)

    async def recover(self) -> None:
        """Do nothing: it is never lost."""
