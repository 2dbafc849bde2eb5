"""What switches tracing on, and what is left without it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.server.telemetry.tracing import (
    RequestSpan,
    RequestTracer,
    exports_traces,
)

METHOD = "llm_serving_engine.v1.InferenceService/Stream"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER_SPAN_ID = "00f067aa0ba902b7"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4317"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, True),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, False),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "zipkin"}, False),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "True"}, False),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "false"}, True),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, True),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, False),
        (
            ENDPOINT
            | {
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
            },
            True,
        ),
    ],
)
def test_what_switches_tracing_on(environ: dict[str, str], expected: bool) -> None:
    assert exports_traces(environ) is expected


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (f"00-{TRACE_ID}-{CALLER_SPAN_ID}-00", TRACE_ID),
        (f"cc-{TRACE_ID}-{CALLER_SPAN_ID}-01-more", TRACE_ID),
        (f"00-{TRACE_ID}-{CALLER_SPAN_ID}-01-more", ""),
        (f"ff-{TRACE_ID}-{CALLER_SPAN_ID}-01", ""),
        (f"00-{'0' * 32}-{CALLER_SPAN_ID}-01", ""),
        (f"00-{TRACE_ID}-{'0' * 16}-01", ""),
        (f"00-{TRACE_ID.upper()}-{CALLER_SPAN_ID}-01", ""),
        (f"00-{TRACE_ID}-{CALLER_SPAN_ID}", ""),
        ("", ""),
    ],
)
def test_without_tracing_the_callers_trace_id_is_kept(traceparent: str, trace_id: str) -> None:
    tracer = RequestTracer.from_environment()
    span = tracer.start(METHOD, [("traceparent", traceparent)])
    assert type(span) is RequestSpan
    assert span.trace_id == trace_id
    span.describe(Request("r1", (1,), max_tokens=9), "m")
    span.end(None, "OK")
    tracer.shutdown()


def test_without_tracing_opentelemetry_is_not_imported() -> None:
    program = """
import sys
from llm_serving_engine.server.telemetry import logs, metrics
from llm_serving_engine.server.telemetry.tracing import RequestTracer
tracer = RequestTracer.from_environment()
tracer.start("s/m", None).end(None, "OK")
tracer.shutdown()
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
