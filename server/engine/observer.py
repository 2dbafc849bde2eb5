"""The interface through which telemetry observes an engine."""

from __future__ import annotations

from typing import Protocol

from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Step, StepResult


class Observer(Protocol):
    """Receives the engine's events, on the event loop, after they have happened.

    An observer must not block and must not raise: it is called between steps.
    """

    def transitioned(self, sequence: Sequence) -> None:
        """`sequence.history` has grown, by one or several states.

        Called once for each state that a sequence is left in, so once for its end.
        """

    def refused(self, request: Request, error: RequestError) -> None:
        """The scheduler has refused `request`."""

    def stepped(self, step: Step, result: StepResult) -> None:
        """A step is done; `result.seconds` is the time of its calls."""
