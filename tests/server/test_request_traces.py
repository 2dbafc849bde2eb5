"""One trace per request, from the caller's RPC through the whole server to a collector."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from running_server import GatedRunner, asked, error_of, gated, read_all, serving
from trace_collector import Collector, attributes

from llm_serving_engine.backends.runner import RunnerLost
from llm_serving_engine.scheduler.lifecycle import State

SERVICE = "llm_serving_engine.v1.InferenceService"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = (("traceparent", f"00-{TRACE_ID}-00f067aa0ba902b7-01"),)
PHASES = ["queue", "prefill", "decode"]


def whole_trace(collector: Collector) -> tuple[Span, list[str]]:
    """The RPC's span, and the names of its children, after checking that they hang together."""
    root, *children = collector.spans()
    assert root.kind == Span.SPAN_KIND_SERVER
    assert {span.trace_id for span in collector.spans()} == {bytes.fromhex(TRACE_ID)}
    assert root.parent_span_id.hex() == "00f067aa0ba902b7"
    assert {span.parent_span_id for span in children} <= {root.span_id}
    moment = root.start_time_unix_nano
    for span in children:
        assert moment <= span.start_time_unix_nano <= span.end_time_unix_nano
        moment = span.end_time_unix_nano
    assert moment <= root.end_time_unix_nano
    return root, [span.name for span in children]


@pytest.mark.parametrize("method", ["Generate", "Stream"])
async def test_success(method: str, collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with serving() as server:
            call: Any = getattr(server.inference, method)(
                asked("secret words", request_id="mine", stop=["never"]), metadata=CALLER
            )
            await (call if method == "Generate" else read_all(call))
    root, children = whole_trace(collector)
    assert root.name == f"{SERVICE}/{method}"
    assert children == PHASES
    assert root.status.code == Status.STATUS_CODE_UNSET
    shown = attributes(root.attributes)
    assert shown["rpc.status_code"] == "OK"
    assert shown["gen_ai.response.id"] == "mine"
    assert shown["gen_ai.request.model"] == "scripted"
    assert shown["gen_ai.request.stop_sequences"] == ["never"]
    assert shown["gen_ai.usage.input_tokens"] == len("secret words")
    assert shown["gen_ai.usage.output_tokens"] == 8
    assert shown["gen_ai.response.finish_reasons"] == ["max_tokens"]
    assert "secret" not in "".join(map(str, collector.exports))
    (line,) = [record for record in caplog.records if record.name.endswith("requests")]
    assert line.fields["trace_id"] == TRACE_ID  # type: ignore[attr-defined]
    assert "secret" not in caplog.text


async def test_cancelled(collector: Collector) -> None:
    async with gated(sequences=1) as server:
        call = server.inference.Stream(asked(request_id="leaver"), metadata=CALLER)
        assert (await call.read()).HasField("started")
        server.runner.let(2)
        await server.runner.held(3)
        call.cancel()
        await server.recorder.state("leaver", State.CANCELLED)
        server.runner.open()
    root, children = whole_trace(collector)
    assert children == PHASES
    assert root.status.code == Status.STATUS_CODE_UNSET
    shown = attributes(root.attributes)
    assert (shown["rpc.status_code"], shown["error.type"]) == ("CANCELLED", "cancelled")


async def test_cancelled_in_the_queue(collector: Collector) -> None:
    async with gated(sequences=1) as server:
        blocker = server.stream(request_id="blocker", max_tokens=1)
        assert (await blocker.read()).HasField("started")
        call = server.inference.Stream(asked(request_id="leaver"), metadata=CALLER)
        reading = asyncio.ensure_future(call.read())
        await server.recorder.state("leaver", State.WAITING)
        call.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await server.recorder.state("leaver", State.CANCELLED)
        server.runner.open()
        await read_all(blocker)
    collector.exports[:] = [_only(export, TRACE_ID) for export in collector.exports]
    _, children = whole_trace(collector)
    assert children == ["queue"]


def _only(export: Any, trace_id: str) -> Any:
    for resource in export.resource_spans:
        for scope in resource.scope_spans:
            ours = [span for span in scope.spans if span.trace_id.hex() == trace_id]
            del scope.spans[:]
            scope.spans.extend(ours)
    return export


async def test_failed(collector: Collector) -> None:
    async with gated(sequences=1) as server:
        call = server.inference.Stream(asked(), metadata=CALLER)
        assert (await call.read()).HasField("started")
        server.runner.let(2)
        await server.runner.held(3)
        server.runner.kills = "hello"
        server.runner.failure = RunnerLost("it died")
        server.runner.open()
        error = await error_of(read_all(call))
        assert error.code() is grpc.StatusCode.INTERNAL
    root, children = whole_trace(collector)
    assert children == [*PHASES, "queue", "prefill", "queue"]
    assert root.status.code == Status.STATUS_CODE_ERROR
    shown = attributes(root.attributes)
    assert (shown["rpc.status_code"], shown["error.type"]) == ("INTERNAL", "request_failed")


async def test_refused(collector: Collector) -> None:
    async with gated() as server:
        await error_of(server.inference.Generate(asked(max_tokens=0), metadata=CALLER))
    root, children = whole_trace(collector)
    assert children == []
    assert root.status.code == Status.STATUS_CODE_ERROR
    assert attributes(root.attributes)["rpc.status_code"] == "INVALID_ARGUMENT"


async def test_its_deadline_passed(collector: Collector) -> None:
    async with gated(sequences=1) as server:
        call = server.inference.Generate(asked(request_id="late"), metadata=CALLER, timeout=2)
        await error_of(call)
        await server.recorder.state("late", State.EXPIRED)
        assert isinstance(server.runner, GatedRunner)
        server.runner.open()
    root, _ = whole_trace(collector)
    assert root.status.code == Status.STATUS_CODE_ERROR
    assert attributes(root.attributes)["rpc.status_code"] == "DEADLINE_EXCEEDED"
