"""Where telemetry listens: everything it shows comes from these calls."""

from __future__ import annotations

from typing import Protocol

from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Step, StepResult


class Observer(Protocol):
    """Told of what the engine does, on the event loop, after the fact.

    An observer must not block and must not raise: it is called between steps.
    """

    def transitioned(self, sequence: Sequence) -> None:
        """`sequence.history` has grown, by several states where a step took it through them.

        Called once for each state that a sequence is left in, so once for its end.
        """

    def refused(self, request: Request, error: RequestError) -> None:
        """`request` was not taken into the queue."""

    def stepped(self, step: Step, result: StepResult) -> None:
        """A step is done; `result.seconds` is the time of its calls."""
