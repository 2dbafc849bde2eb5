"""Exports traces over OTLP. Only this module imports OpenTelemetry's SDK.

A request's `queue`, `prefill`, and `decode` spans are made from its history
when it has ended, so that a running request costs nothing. All times of a
trace come from one monotonic clock, moved to the epoch by one offset taken
when the RPC arrives: a clock that is set meanwhile tears no trace apart.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from llm_serving_engine.scheduler.errors import Cancelled, RequestError
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.server.events import Finished
from llm_serving_engine.server.telemetry.attributes import (
    Value,
    request_attributes,
    result_attributes,
    rpc_attributes,
    status_attributes,
)
from llm_serving_engine.server.telemetry.identity import SERVICE_NAME, service_version
from llm_serving_engine.server.telemetry.tracing import (
    Metadata,
    RequestSpan,
    RequestTracer,
)
from llm_serving_engine.server.truncation import truncated

_PHASES = {State.WAITING: "queue", State.PREFILL: "prefill", State.DECODE: "decode"}
_TRACE_HEADERS = ("traceparent", "tracestate")

_logger = logging.getLogger(__name__)


class OtlpSpan(RequestSpan):
    """The trace of one RPC, recorded."""

    def __init__(
        self, tracer: Tracer, span: Span, clock: Callable[[], float], epoch_offset: int
    ) -> None:
        """`epoch_offset` is what to add to the clock, in nanoseconds."""
        super().__init__(format_trace_id(span.get_span_context().trace_id))
        self._tracer = tracer
        self._span = span
        self._clock = clock
        self._epoch_offset = epoch_offset

    def describe(
        self,
        request: Request,
        model: str,
        *,
        request_id: str = "",
        stop: Iterable[str] = (),
    ) -> None:
        """Say what was asked for; see the base class."""
        if self._span.is_recording():
            self._span.set_attributes(
                request_attributes(
                    request,
                    model,
                    request_id=request_id or request.id,
                    stop=stop,
                )
            )

    def end(
        self,
        sequence: Sequence | None,
        status_code: str,
        error: RequestError | None = None,
        finished: Finished | None = None,
    ) -> None:
        """Add the phases, say how it ended, and hand the trace to the exporter."""
        now = self._clock()
        if self._span.is_recording():
            if sequence is not None:
                self._span.set_attributes(result_attributes(sequence, finished))
                self._add_phases(sequence, now)
            self._span.set_attributes(status_attributes(status_code, error))
            # A client that disconnects is no failure: the status stays unset.
            if status_code not in ("OK", Cancelled.code):
                description = truncated(str(error)) if error is not None else None
                self._span.set_status(Status(StatusCode.ERROR, description))
        self._span.end(self._epoch(now))

    def _add_phases(self, sequence: Sequence, now: float) -> None:
        parent = set_span_in_context(self._span, Context())
        for state, start, stop in _visits(sequence, now):
            phase = self._tracer.start_span(
                _PHASES[state], context=parent, start_time=self._epoch(start)
            )
            phase.end(self._epoch(stop))

    def _epoch(self, at: float) -> int:
        return _nanoseconds(at) + self._epoch_offset


class OtlpTracer(RequestTracer):
    """Exports by the OTEL_* variables: endpoint, headers, TLS, sampler, batching, resource."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is the engine's, in seconds. Raises ValueError for a senseless variable."""
        self._clock = clock
        # Nothing else may end it: what is registered at exit could hang there.
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(SERVICE_NAME, service_version())
        self._propagator = TraceContextTextMapPropagator()

    def start(
        self,
        method: str,
        metadata: Metadata | None,
        attributes: Mapping[str, Value] | None = None,
    ) -> OtlpSpan:
        """Begin the span of a call; see the base class."""
        now = self._clock()
        epoch_offset = time.time_ns() - _nanoseconds(now)
        span = self._tracer.start_span(
            method,
            context=self._propagator.extract(_carrier(metadata or ()), Context()),
            kind=SpanKind.SERVER,
            attributes=rpc_attributes(method) if attributes is None else attributes,
            start_time=_nanoseconds(now) + epoch_offset,
        )
        return OtlpSpan(self._tracer, span, self._clock, epoch_offset)

    def shutdown(self, seconds: float = 5.0) -> None:
        """Send the remaining spans, and end; blocks for at most `seconds`."""
        # The SDK's own bound is 30 s and cannot be set.
        flush = threading.Thread(target=self._provider.shutdown, name="trace-flush", daemon=True)
        flush.start()
        flush.join(seconds)
        if flush.is_alive():
            _logger.warning("the last traces could not be sent within %g s", seconds)


def _resource() -> Resource:
    """Who exports: our name and version, unless the environment says otherwise."""
    ours = Resource({"service.name": SERVICE_NAME, "service.version": service_version()})
    return Resource.create(ours.merge(OTELResourceDetector().detect()).attributes)


def _carrier(metadata: Metadata) -> dict[str, list[str]]:
    carrier: dict[str, list[str]] = {}
    for key, value in metadata:
        if key in _TRACE_HEADERS and isinstance(value, str):
            carrier.setdefault(key, []).append(value)
    return carrier


def _visits(sequence: Sequence, now: float) -> Iterator[tuple[State, float, float]]:
    """Each stay in a state that is not an end; one under way counts up to `now`."""
    leaving = [transition.at for transition in sequence.history[1:]]
    for transition, left_at in zip(sequence.history, [*leaving, now], strict=True):
        if not transition.state.ended:
            yield transition.state, transition.at, left_at


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
