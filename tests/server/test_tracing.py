"""One trace per request, as a real collector receives it."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from trace_collector import Collector, attributes, start

from llm_serving_engine.scheduler.errors import Cancelled, InvalidField, RunnerFailed
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.request import (
    FinishReason,
    Operation,
    Priority,
    Request,
    Sampling,
)
from llm_serving_engine.scheduler.sequence import Sequence, Transition
from llm_serving_engine.server.telemetry.identity import service_version
from llm_serving_engine.server.telemetry.otlp import OtlpTracer
from llm_serving_engine.server.telemetry.tracing import (
    RequestTracer,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "observability.md"
METHOD = "llm_serving_engine.v1.InferenceService/Stream"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER_SPAN_ID = "00f067aa0ba902b7"
METADATA = (
    ("user-agent", "test"),
    ("traceparent", f"00-{TRACE_ID}-{CALLER_SPAN_ID}-01"),
    ("tracestate", "a=1"),
    ("tracestate", "b=2"),
)
PROMPT = (918273645, 918273646)


class Clock:
    """The engine's clock, set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def request(**changes: Any) -> Request:
    sampling = Sampling(temperature=0.5, top_p=0.25, top_k=40, seed=changes.pop("seed", 11))
    return Request("r1", PROMPT, max_tokens=9, sampling=sampling, **changes)


def waiting(clock: Clock, asked: Request | None = None) -> Sequence:
    return Sequence(asked or request(), 1, [Transition(State.WAITING, clock.now)])


def advance(sequence: Sequence, clock: Clock, event: Event, seconds: float) -> None:
    clock.now += seconds
    sequence.advance(event, clock.now)


def trace(tracer: RequestTracer, collector: Collector) -> tuple[Span, list[Span]]:
    """Have everything sent; the RPC's span, and its children."""
    tracer.shutdown()
    root, *children = collector.spans()
    assert {child.parent_span_id for child in children} <= {root.span_id}
    assert {child.trace_id for child in children} <= {root.trace_id}
    assert not [span for span in (root, *children) if span.events]
    return root, children


def phases(children: list[Span]) -> list[tuple[str, float]]:
    return [(span.name, (span.end_time_unix_nano - start(span)) / 1e9) for span in children]


def test_a_request_that_succeeded(collector: Collector, clock: Clock) -> None:
    tracer = OtlpTracer(clock)
    span = tracer.start(METHOD, METADATA)
    assert span.trace_id == TRACE_ID
    asked = request(priority=Priority.HIGH, tenant="t", operation=Operation.CHAT)
    span.describe(asked, "m", request_id="mine", stop=["\n\n"])
    clock.now += 0.125
    sequence = waiting(clock, asked)
    advance(sequence, clock, Event.ADMIT, 0.25)
    advance(sequence, clock, Event.FIRST_TOKEN, 0.5)
    sequence.first_token_at = clock.now
    sequence.output += [1, 2, 3]
    sequence.cached_prompt_tokens = 1
    sequence.finish_reason = FinishReason.STOP_SEQUENCE
    advance(sequence, clock, Event.FINISH, 1.0)
    span.end(sequence, "OK")

    root, children = trace(tracer, collector)
    assert root.name == METHOD
    assert root.kind == Span.SPAN_KIND_SERVER
    assert root.trace_id.hex() == TRACE_ID
    assert root.parent_span_id.hex() == CALLER_SPAN_ID
    assert root.trace_state == "a=1,b=2"
    assert root.status.code == Status.STATUS_CODE_UNSET
    assert phases([root, *children]) == [
        (METHOD, 1.875),
        ("queue", 0.25),
        ("prefill", 0.5),
        ("decode", 1.0),
    ]
    assert start(children[0]) - start(root) == 125_000_000
    assert attributes(root.attributes) == {
        "rpc.system.name": "grpc",
        "rpc.method": METHOD,
        "rpc.response.status_code": "OK",
        "rpc.status_code": "OK",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llm-serving-engine",
        "gen_ai.request.model": "m",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.25,
        "gen_ai.request.top_k": 40.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.seed": 11,
        "gen_ai.request.stop_sequences": ["\n\n"],
        "gen_ai.response.id": "mine",
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ["stop_sequence"],
        "gen_ai.response.time_to_first_chunk": 0.75,
        "gen_ai.usage.input_tokens": 2,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 1,
        "llm_serving_engine.priority": "high",
        "llm_serving_engine.tenant": "t",
        "llm_serving_engine.preemptions": 0,
    }
    document = DOCUMENT.read_text()
    assert [key for key in attributes(root.attributes) if f"`{key}`" not in document] == []


def test_who_exports(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    def resource() -> dict[str, Any]:
        collector.exports.clear()
        tracer = RequestTracer.from_environment()
        tracer.start(METHOD, None).end(None, "OK")
        tracer.shutdown()
        (export,) = collector.exports
        return attributes(export.resource_spans[0].resource.attributes)

    ours = resource()
    assert ours["service.name"] == "llm-serving-engine"
    assert ours["service.version"] == service_version()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "other")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=9,zone=z")
    theirs = resource()
    chosen = ("service.name", "service.version", "zone")
    assert [theirs[name] for name in chosen] == ["other", "9", "z"]


def test_a_request_that_was_cancelled(collector: Collector, clock: Clock) -> None:
    tracer = OtlpTracer(clock)
    span = tracer.start(METHOD, METADATA)
    span.describe(request(), "m")
    sequence = waiting(clock)
    advance(sequence, clock, Event.ADMIT, 0.25)
    sequence.error = Cancelled("the caller has gone")
    advance(sequence, clock, Event.CANCEL, 0.5)
    span.end(sequence, "CANCELLED", sequence.error)

    root, children = trace(tracer, collector)
    assert root.trace_id.hex() == TRACE_ID
    assert phases(children) == [("queue", 0.25), ("prefill", 0.5)]
    assert root.status.code == Status.STATUS_CODE_UNSET
    shown = attributes(root.attributes)
    assert shown["rpc.response.status_code"] == "CANCELLED"
    assert shown["rpc.status_code"] == "CANCELLED"
    assert shown["error.type"] == "cancelled"
    assert "gen_ai.response.finish_reasons" not in shown


def test_a_request_that_failed(collector: Collector, clock: Clock) -> None:
    tracer = OtlpTracer(clock)
    span = tracer.start(METHOD, METADATA)
    span.describe(request(), "m")
    sequence = waiting(clock)
    advance(sequence, clock, Event.ADMIT, 0.25)
    advance(sequence, clock, Event.FIRST_TOKEN, 0.5)
    sequence.error = RunnerFailed("the runner failed")
    advance(sequence, clock, Event.FAIL, 1.0)
    span.end(sequence, "UNAVAILABLE", sequence.error)

    root, children = trace(tracer, collector)
    assert root.trace_id.hex() == TRACE_ID
    assert phases(children) == [("queue", 0.25), ("prefill", 0.5), ("decode", 1.0)]
    assert root.status.code == Status.STATUS_CODE_ERROR
    assert root.status.message == "the runner failed"
    shown = attributes(root.attributes)
    assert shown["rpc.response.status_code"] == "UNAVAILABLE"
    assert shown["error.type"] == "runner_failed"


def test_a_request_that_was_not_valid(collector: Collector, clock: Clock) -> None:
    tracer = OtlpTracer(clock)
    span = tracer.start(METHOD, METADATA)
    span.end(None, "INVALID_ARGUMENT", InvalidField("top_p", "must be at most 1"))
    root, children = trace(tracer, collector)
    assert children == []
    assert root.status.code == Status.STATUS_CODE_ERROR
    assert root.status.message == "top_p: must be at most 1"
    assert attributes(root.attributes)["error.type"] == "invalid_field"


def test_an_error_that_is_not_ours(collector: Collector, clock: Clock) -> None:
    tracer = OtlpTracer(clock)
    tracer.start(METHOD, METADATA).end(None, "INTERNAL")
    root, _ = trace(tracer, collector)
    assert root.status.code == Status.STATUS_CODE_ERROR
    assert attributes(root.attributes)["error.type"] == "INTERNAL"


def test_every_run_of_a_preempted_request_shows(collector: Collector, clock: Clock) -> None:
    tracer = OtlpTracer(clock)
    span = tracer.start(METHOD, METADATA)
    sequence = waiting(clock)
    course = [Event.ADMIT, Event.FIRST_TOKEN, Event.PREEMPT]
    course += [Event.ADMIT, Event.FIRST_TOKEN, Event.FINISH]
    for event in course:
        advance(sequence, clock, event, 0.25)
    span.end(sequence, "OK")
    _, children = trace(tracer, collector)
    once = ["queue", "prefill", "decode"]
    assert phases(children) == [(name, 0.25) for name in once + once]


def test_an_rpc_may_end_before_its_sequence(collector: Collector, clock: Clock) -> None:
    tracer = OtlpTracer(clock)
    span = tracer.start(METHOD, METADATA)
    sequence = waiting(clock)
    advance(sequence, clock, Event.ADMIT, 0.25)
    clock.now += 0.5
    span.end(sequence, "CANCELLED")
    root, children = trace(tracer, collector)
    assert phases(children) == [("queue", 0.25), ("prefill", 0.5)]
    assert attributes(root.attributes)["error.type"] == "cancelled"


def test_no_prompt_and_no_output(collector: Collector, clock: Clock) -> None:
    tracer = OtlpTracer(clock)
    span = tracer.start(METHOD, METADATA)
    span.describe(request(), "m")
    sequence = waiting(clock)
    sequence.output.append(564738291)
    span.end(sequence, "INTERNAL")
    tracer.shutdown()
    text = "".join(map(str, collector.exports))
    assert "gen_ai.usage.input_tokens" in text
    assert not [token for token in (*PROMPT, 564738291) if str(token) in text]


def test_a_seed_that_otlp_cannot_hold_is_left_out(collector: Collector, clock: Clock) -> None:
    tracer = OtlpTracer(clock)
    span = tracer.start(METHOD, METADATA)
    span.describe(request(seed=2**63), "m")
    span.end(None, "OK")
    root, _ = trace(tracer, collector)
    shown = attributes(root.attributes)
    assert "gen_ai.request.seed" not in shown
    assert shown["gen_ai.request.model"] == "m"


def test_a_trace_of_our_own_without_a_caller(collector: Collector, clock: Clock) -> None:
    tracer = OtlpTracer(clock)
    span = tracer.start(METHOD, None)
    span.end(None, "OK")
    root, _ = trace(tracer, collector)
    assert root.parent_span_id == b""
    assert root.trace_id.hex() == span.trace_id


def test_the_sampler_is_the_environments(
    collector: Collector, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    tracer = OtlpTracer(clock)
    span = tracer.start(METHOD, METADATA)
    span.describe(request(), "m")
    span.end(waiting(clock), "OK")
    tracer.shutdown()
    assert span.trace_id == TRACE_ID
    assert collector.exports == []


def test_a_collector_that_does_not_answer_does_not_hold_up_the_end(
    collector: Collector, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    collector.open.clear()
    tracer = OtlpTracer(clock)
    tracer.start(METHOD, METADATA).end(None, "OK")
    with caplog.at_level(logging.WARNING):
        tracer.shutdown(seconds=0.01)
    # Given up on: the export is still under way.
    assert "could not be sent within 0.01 s" in caplog.text
    collector.open.set()
    for thread in threading.enumerate():
        if thread.name == "trace-flush":
            thread.join()


def test_a_collector_that_is_not_there_breaks_nothing(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    tracer = RequestTracer.from_environment()
    assert isinstance(tracer, OtlpTracer)
    for _ in range(50):
        span = tracer.start(METHOD, METADATA)
        span.describe(request(), "m")
        span.end(waiting(clock), "OK")
    tracer.shutdown()
