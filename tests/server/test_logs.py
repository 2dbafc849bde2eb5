"""One line per request, in both forms, and never a word of prompt or output."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_serving_engine.scheduler.errors import (
    Cancelled,
    DeadlinePassed,
    InvalidField,
    LimitReached,
    RequestError,
    RunnerFailed,
    Unavailable,
)
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.request import FinishReason, Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition
from llm_serving_engine.server.telemetry.logs import LogFormat, configure, log_request

DOCUMENT = Path(__file__).parents[2] / "docs" / "observability.md"
RPC = "llm_serving_engine.v1.InferenceService/Stream"
LOGGERS = ("", "llm_serving_engine", "uvicorn", "uvicorn.error", "uvicorn.access")

PROMPT = (918273645, 918273646)
OUTPUT = [564738291, 564738292]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(one.level, one.handlers[:], one.propagate) for one in loggers]
    yield
    for one, (level, handlers, propagate) in zip(loggers, before, strict=True):
        one.setLevel(level)
        one.handlers, one.propagate = handlers, propagate


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def request(tenant: str = "") -> Request:
    return Request("r1", PROMPT, max_tokens=9, priority=Priority.HIGH, tenant=tenant)


def finished(tenant: str = "") -> Sequence:
    sequence = Sequence(request(tenant), 1, [Transition(State.WAITING, 10.0)])
    sequence.advance(Event.ADMIT, 10.5)
    sequence.advance(Event.FIRST_TOKEN, 11.5)
    sequence.cached_prompt_tokens = 1
    sequence.first_token_at = 11.5
    sequence.output += OUTPUT
    sequence.finish_reason = FinishReason.MAX_TOKENS
    sequence.advance(Event.FINISH, 13.5)
    return sequence


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_request_that_finished(stream: io.StringIO) -> None:
    configure("json", "info", stream)
    log_request(
        rpc=RPC, status_code="OK", trace_id="ab" * 16, model="m", sequence=finished(tenant="t")
    )
    (line,) = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "info",
        "logger": "llm_serving_engine.requests",
        "message": "request finished",
        "request_id": "r1",
        "trace_id": "ab" * 16,
        "rpc": RPC,
        "model": "m",
        "tenant": "t",
        "priority": "high",
        "outcome": "finished",
        "status_code": "OK",
        "finish_reason": "max_tokens",
        "prompt_tokens": 2,
        "cached_prompt_tokens": 1,
        "completion_tokens": 2,
        "queue_seconds": 0.5,
        "prefill_seconds": 1.0,
        "decode_seconds": 2.0,
        "time_to_first_token_seconds": 1.5,
        "preemptions": 0,
    }


def ended(event: Event, error: RequestError) -> Sequence:
    sequence = Sequence(request(), 1, [Transition(State.WAITING, 1.0)], error=error)
    sequence.advance(event, 2.0)
    return sequence


CANCELLED = Cancelled("the caller has gone")
EXPIRED = DeadlinePassed(DeadlinePassed.QUEUE_TIMEOUT, "too late")
FAILED = RunnerFailed("the runner failed")


@pytest.mark.parametrize(
    ("sequence", "error", "code", "outcome", "level"),
    [
        (ended(Event.CANCEL, CANCELLED), CANCELLED, "CANCELLED", "cancelled", "info"),
        (ended(Event.EXPIRE, EXPIRED), EXPIRED, "DEADLINE_EXCEEDED", "expired", "warning"),
        (ended(Event.FAIL, FAILED), FAILED, "UNAVAILABLE", "failed", "error"),
        (None, LimitReached("queue", "full", 1.0), "RESOURCE_EXHAUSTED", "refused", "warning"),
        (None, Unavailable("draining"), "UNAVAILABLE", "refused", "warning"),
        (None, InvalidField("top_p", "too large"), "INVALID_ARGUMENT", "refused", "info"),
        (None, None, "INTERNAL", "failed", "error"),
        (None, None, "CANCELLED", "cancelled", "info"),
        (None, None, "OK", "finished", "info"),
    ],
)
def test_outcomes(
    stream: io.StringIO,
    sequence: Sequence | None,
    error: RequestError | None,
    code: str,
    outcome: str,
    level: str,
) -> None:
    configure("json", "info", stream)
    log_request(rpc=RPC, status_code=code, request_id="mine", sequence=sequence, error=error)
    (line,) = lines(stream)
    assert (line["outcome"], line["level"], line["status_code"]) == (outcome, level, code)
    assert line["request_id"] == "mine"
    assert line.get("error") == (error.label if error else None)
    assert line.get("error_message") == (str(error) if error else None)


def test_an_rpc_may_end_before_its_sequence(stream: io.StringIO) -> None:
    configure("json", "info", stream)
    sequence = Sequence(request(), 1, [Transition(State.WAITING, 1.0)])
    log_request(rpc=RPC, status_code="CANCELLED", sequence=sequence)
    log_request(rpc=RPC, status_code="DEADLINE_EXCEEDED", sequence=sequence)
    log_request(rpc=RPC, status_code="INTERNAL", sequence=sequence)
    assert [line["outcome"] for line in lines(stream)] == ["cancelled", "expired", "failed"]


def test_text(stream: io.StringIO) -> None:
    configure("text", "info", stream)
    log_request(
        rpc=RPC,
        status_code="INVALID_ARGUMENT",
        model="m",
        error=InvalidField("top_p", "must be\nat most 1"),
    )
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert line.split(" ", 1)[1] == (
        f"INFO    request refused rpc={RPC} model=m outcome=refused "
        "status_code=INVALID_ARGUMENT error=invalid_field "
        'error_message="top_p: must be\\nat most 1"\n'
    )


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_prompt_and_no_output(stream: io.StringIO, form: LogFormat) -> None:
    configure(form, "debug", stream)
    log_request(rpc=RPC, status_code="OK", request=request(), sequence=finished())
    log_request(rpc=RPC, status_code="INTERNAL", request=request(), error=RequestError("no"))
    text = stream.getvalue()
    assert text.count("\n") == 2
    assert not [token for token in (*PROMPT, *OUTPUT) if str(token) in text]


def test_levels(stream: io.StringIO) -> None:
    configure("json", "warning", stream)
    log_request(rpc=RPC, status_code="OK")
    log_request(rpc=RPC, status_code="INTERNAL")
    assert [line["level"] for line in lines(stream)] == ["error"]
    with pytest.raises(ValueError, match="LOUD"):
        configure("json", "loud", stream)


def test_libraries_go_through_the_same_handler(stream: io.StringIO) -> None:
    for name in ("uvicorn", "uvicorn.access"):
        logging.getLogger(name).addHandler(logging.StreamHandler())
    configure("json", "debug", stream)
    for name in ("uvicorn.error", "uvicorn.access", "grpc", "httpx"):
        logging.getLogger(name).warning("from %s", name)
        logging.getLogger(name).info("chatter")
    assert [line["message"] for line in lines(stream)] == [
        "from uvicorn.error",
        "from uvicorn.access",
        "from grpc",
        "from httpx",
    ]


def test_configuring_again_replaces(stream: io.StringIO) -> None:
    configure("text", "info", io.StringIO())
    configure("json", "info", stream)
    log_request(rpc=RPC, status_code="OK")
    assert len(lines(stream)) == 1


@pytest.mark.parametrize("form", ["json", "text"])
def test_exceptions(stream: io.StringIO, form: LogFormat) -> None:
    configure(form, "info", stream)
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        logging.getLogger("llm_serving_engine.server").exception("unexpected")
    text = stream.getvalue()
    assert "RuntimeError: boom" in text
    if form == "json":
        assert lines(stream)[0]["message"] == "unexpected"


def test_an_exporter_that_complains_is_heard_once_a_minute(stream: io.StringIO) -> None:
    configure("json", "info", stream)
    for at in (1000.0, 1001.0, 1059.0, 1061.0):
        for name in ("opentelemetry.exporter", "opentelemetry.sdk", "other"):
            record = logging.makeLogRecord({"name": name, "levelno": logging.ERROR, "msg": f"{at}"})
            record.created = at
            logging.getLogger(name).handle(record)
    heard = [(line["logger"], line["message"]) for line in lines(stream)]
    others = [("other", message) for message in ("1000.0", "1001.0", "1059.0", "1061.0")]
    throttled = [("opentelemetry.exporter", message) for message in ("1000.0", "1061.0")]
    assert sorted(heard) == sorted(throttled + others)


def test_every_field_is_documented(stream: io.StringIO) -> None:
    configure("json", "info", stream)
    log_request(
        rpc=RPC,
        status_code="OK",
        trace_id="ab" * 16,
        model="m",
        sequence=finished(tenant="t"),
        error=RequestError("so that its fields are there"),
    )
    document = DOCUMENT.read_text().partition("## Logs")[2]
    assert [name for name in lines(stream)[0] if f"`{name}`" not in document] == []
