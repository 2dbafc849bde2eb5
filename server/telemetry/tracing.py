"""Makes one trace per request, or none.

`RequestTracer.from_environment` reads the standard OTEL_* variables. Where they
ask for no traces, the tracer is the null object defined here, and OpenTelemetry
is not imported; else it is `otlp.OtlpTracer`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping

from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.server.events import Finished
from llm_serving_engine.server.telemetry.attributes import Value

Metadata = Iterable[tuple[str, str | bytes]]

_logger = logging.getLogger(__name__)

# W3C Trace Context: version, trace id, parent id, flags, and whatever later
# versions append.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


class RequestSpan:
    """The trace of one RPC; this class records nothing.

    Attributes:
        trace_id: The trace's id, 32 hexadecimal digits, for the logs; empty
            where there is no trace.
    """

    def __init__(self, trace_id: str) -> None:
        self.trace_id = trace_id

    def describe(
        self,
        request: Request,
        model: str,
        *,
        request_id: str = "",
        stop: Iterable[str] = (),
    ) -> None:
        """Add the attributes of a valid request.

        Args:
            request: The request.
            model: The name of the model that serves it.
            request_id: The id that the caller sees; default `request.id`.
            stop: The stop sequences, as text.
        """

    def end(
        self,
        sequence: Sequence | None,
        status_code: str,
        error: RequestError | None = None,
        finished: Finished | None = None,
    ) -> None:
        """End the RPC's span. Call once.

        Args:
            sequence: The scheduler's sequence; None if the request was never queued.
            status_code: The name of the call's gRPC status code.
            error: The error behind the code, if it is one of the tree.
            finished: The caller's last event, if the output was complete.
        """


class RequestTracer:
    """Makes the spans. This one's record nothing, and carry the caller's trace id."""

    @staticmethod
    def from_environment() -> RequestTracer:
        """The tracer that the process's OTEL_* variables ask for.

        Raises:
            ValueError: One of the variables has an invalid value.
        """
        if not exports_traces(os.environ):
            return RequestTracer()
        # Imported here, so that servers without a collector do not load it.
        from llm_serving_engine.server.telemetry.otlp import OtlpTracer

        return OtlpTracer()

    def start(
        self,
        method: str,
        metadata: Metadata | None,
        attributes: Mapping[str, Value] | None = None,
    ) -> RequestSpan:
        """Start the span of a call.

        Args:
            method: What was called, such as `package.Service/Method`: the span's name.
            metadata: The call's, which may hold the caller's trace context.
            attributes: The transport's attributes; by default those of an RPC.
        """
        return RequestSpan(_caller_trace_id(metadata or ()))

    def shutdown(self, seconds: float = 5.0) -> None:
        """Send the remaining spans, and end; blocks for at most `seconds`."""


def exports_traces(environ: Mapping[str, str]) -> bool:
    """Whether OTEL_* variables ask for traces over OTLP; an empty one counts as not set."""

    def value(name: str) -> str:
        return environ.get(name, "").strip().lower()

    exporters = value("OTEL_TRACES_EXPORTER")
    endpoint = value("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or value("OTEL_EXPORTER_OTLP_ENDPOINT")
    if value("OTEL_SDK_DISABLED") == "true" or exporters == "none":
        return False
    if not (exporters or endpoint):
        return False
    if exporters and "otlp" not in (name.strip() for name in exporters.split(",")):
        _logger.warning("no traces: OTEL_TRACES_EXPORTER=%s, only otlp is supported", exporters)
        return False
    protocol = value("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or value("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in ("", "grpc"):
        _logger.warning("no traces: OTLP over %s is not supported, only grpc", protocol)
        return False
    return True


def _caller_trace_id(metadata: Metadata) -> str:
    header = next((value for key, value in metadata if key == "traceparent"), "")
    match = _TRACEPARENT.fullmatch(header) if isinstance(header, str) else None
    if match is None:
        return ""
    version, trace_id, parent_id, more = match.groups()
    if version == "ff" or (version == "00" and more):
        return ""
    return trace_id if int(trace_id, 16) and int(parent_id, 16) else ""
