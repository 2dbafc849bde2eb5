"""Reports each call when it ends: its span, its log line, and its counters."""

from __future__ import annotations

from llm_serving_engine.scheduler.errors import Cancelled, DeadlinePassed, RequestError
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.server.service.caller import Caller
from llm_serving_engine.server.service.generation import Generation
from llm_serving_engine.server.telemetry.logs import log_request
from llm_serving_engine.server.telemetry.metrics import Metrics
from llm_serving_engine.server.telemetry.tracing import RequestTracer

# A client's own deadline timer can cancel the call slightly before the deadline
# passes here. A cancellation within this time of the deadline counts as expired.
DEADLINE_SLACK_SECONDS = 0.05


class CallTelemetry:
    """The telemetry of one call; fields are set as the call proceeds.

    Attributes:
        span: Its span.
        request_id: The caller's request id; empty before it is known.
        model: The model's name; empty before the model is found.
        generation: Its generation, once it is queued.
        submitting: Whether the engine has the request; the engine counts its refusals itself.
    """

    def __init__(self, caller: Caller, tracer: RequestTracer, metrics: Metrics) -> None:
        """Start the call's span."""
        self._caller = caller
        self._metrics = metrics
        self.span = tracer.start(caller.method, caller.metadata, caller.attributes)
        self.request_id = ""
        self.model = ""
        self.generation: Generation | None = None
        self.submitting = False

    def departure(self) -> RequestError:
        """Return the error of a disconnected caller: its deadline passed, or it cancelled."""
        remaining = self._caller.remaining()
        if remaining is not None and remaining <= DEADLINE_SLACK_SECONDS:
            return DeadlinePassed(DeadlinePassed.RUNNING_TIMEOUT, "the deadline passed")
        return Cancelled("the caller cancelled")

    def end(self, code: str, error: RequestError | None) -> None:
        """Report the call, and abandon its generation if that still runs.

        Args:
            code: The name of the call's status code.
            error: The error behind the code; None for OK.
        """
        if self.generation is not None:
            self.generation.abandon(error)
        sequence = self._sequence
        if sequence is not None and sequence.error is not None:
            error = sequence.error
        if error is not None and not self.submitting:
            self._metrics.refused(self.model, error)
        finished = None if self.generation is None else self.generation.finished
        self.span.end(sequence, code, error, finished)
        log_request(
            rpc=self._caller.method,
            status_code=code,
            request_id=self.request_id,
            trace_id=self.span.trace_id,
            model=self.model,
            sequence=sequence,
            error=error,
            finished=finished,
        )

    @property
    def _sequence(self) -> Sequence | None:
        return None if self.generation is None else self.generation.sequence
