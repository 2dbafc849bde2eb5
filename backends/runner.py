"""The interface between the engine and a runner."""

from __future__ import annotations

from asyncio import Future
from typing import Protocol

from llm_serving_engine.scheduler.step import Capabilities, Step, StepResult


class RunnerLost(Exception):
    """The runner died, hung, or sent nonsense; the contents of its slots are lost."""


class Runner(Protocol):
    """Executes steps, one after the other.

    Attributes:
        steps_max: Steps that it accepts at once: 2 if it can queue one, else 1.
    """

    steps_max: int

    @property
    def capabilities(self) -> Capabilities:
        """The model's capabilities; constant after the start."""

    def begin(self, step: Step) -> Future[StepResult]:
        """Send a step to the runner.

        Returns:
            The result's future; it raises RunnerLost if the runner fails.
        """

    def recall(self, number: int) -> None:
        """Ask the runner to skip a step. The step's result says whether it did."""

    async def reap(self) -> bool:
        """End the remaining process of a lost runner.

        Returns:
            Whether the cause was outside, so that no request can have caused the loss.
        """

    async def recover(self) -> None:
        """Replace a lost runner by one with empty slots; return when it accepts steps."""
