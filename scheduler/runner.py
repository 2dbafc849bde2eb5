"""What the engine asks of a runner."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from llm_serving_engine.scheduler.step import Capabilities, Step, StepResult


class RunnerLost(Exception):
    """The runner died, hung, or can no longer be spoken to; its slots are gone."""


class Runner(Protocol):
    """Executes steps, one after the other."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; fixed once it is started."""

    @property
    def takes_ahead(self) -> bool:
        """Whether a step can be sent before the one before it is done."""

    def begin(self, step: Step) -> Awaitable[StepResult]:
        """Send a step. It is on its way when this returns.

        Awaiting the result raises RunnerLost where the runner failed.
        """

    async def bury(self) -> bool:
        """End what is left of a lost runner.

        Returns:
            Whether it was lost to something that no request can cause.
        """

    async def recover(self) -> None:
        """Bring a lost runner back, empty. Returns when it can take steps again."""
