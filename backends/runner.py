"""What the engine asks of a runner."""

from __future__ import annotations

from asyncio import Future
from typing import Protocol

from llm_serving_engine.scheduler.step import Capabilities, Step, StepResult


class RunnerLost(Exception):
    """The runner died, hung, or can no longer be spoken to; its slots are gone."""


class Runner(Protocol):
    """Executes steps, one after the other.

    Attributes:
        steps_max: How many it has at once: 2 where it can queue one, else 1.
    """

    steps_max: int

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; fixed once it is started."""

    def begin(self, step: Step) -> Future[StepResult]:
        """Send a step. It is on its way when this returns.

        The future raises RunnerLost where the runner failed.
        """

    def recall(self, number: int) -> None:
        """Ask for a step back. Its result says whether it came in time."""

    async def bury(self) -> bool:
        """End what is left of a lost runner.

        Returns:
            Whether it was lost to something that no request can cause.
        """

    async def recover(self) -> None:
        """Bring a lost runner back, empty. Returns when it can take steps again."""
