"""Refusals that can be tried again say when, the same in details, trailer, and headers."""

from __future__ import annotations

import pytest
from google.rpc import error_details_pb2, status_pb2

from llm_serving_engine.scheduler.errors import (
    Cancelled,
    DeadlinePassed,
    InvalidField,
    LimitReached,
    RequestError,
    RequestFailed,
    RunnerFailed,
    Unavailable,
)
from llm_serving_engine.server.api.errors import http_error
from llm_serving_engine.server.retry_delay import JITTER, with_jitter
from llm_serving_engine.server.statuses import PUSHBACK_KEY, to_answer


def retry_info(trailers: dict[str, str | bytes]) -> float | None:
    """The delay in the details, in seconds."""
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    for detail in status.details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return float(retry.retry_delay.ToNanoseconds() / 1e9)
    return None


@pytest.mark.parametrize(
    "error",
    [
        LimitReached("queue.requests", "full", 8.0),
        Unavailable("loading", 8.0),
        RunnerFailed("gone", 8.0),
    ],
)
def test_what_can_be_tried_again(error: RequestError) -> None:
    seen = set()
    for _ in range(20):
        trailers = dict(to_answer(error).trailers)
        seconds = retry_info(trailers)
        assert seconds is not None
        assert 8.0 <= seconds <= 8.0 * (1 + JITTER)
        milliseconds = int(trailers[PUSHBACK_KEY])
        assert milliseconds - 1 < seconds * 1000 <= milliseconds
        seen.add(milliseconds)
    assert len(seen) > 1  # not all at the same moment


@pytest.mark.parametrize(
    "error",
    [
        InvalidField("prompt", "is missing"),
        DeadlinePassed(DeadlinePassed.QUEUE_TIMEOUT, "late"),
        RequestFailed(RequestFailed.KILLS_RUNNER, "bad"),
        Cancelled("gone"),
        RequestError("a bug"),
    ],
)
def test_what_cannot(error: RequestError) -> None:
    trailers = dict(to_answer(error).trailers)
    assert PUSHBACK_KEY not in trailers
    if "grpc-status-details-bin" in trailers:
        assert retry_info(trailers) is None


@pytest.mark.parametrize(
    ("error", "repeat"),
    [
        (LimitReached("queue", "full", 8.0), "true"),
        (Unavailable("loading", 8.0), "true"),
        (RunnerFailed("died", 8.0), "false"),
        (DeadlinePassed(DeadlinePassed.DEADLINE_UNREACHABLE, "late", 8.0), "false"),
    ],
)
def test_http(error: RequestError, repeat: str) -> None:
    headers = dict(http_error(error).headers)
    assert headers["x-should-retry"] == repeat
    assert 8000 <= int(headers["retry-after-ms"]) <= 8000 * (1 + JITTER) + 1
    assert 8 <= int(headers["retry-after"]) <= 8 * (1 + JITTER) + 1


@pytest.mark.parametrize(
    "error",
    [
        DeadlinePassed(DeadlinePassed.DEADLINE_UNREACHABLE, "even alone"),
        RequestFailed(RequestFailed.KILLS_RUNNER, "bad"),
    ],
)
def test_http_of_what_cannot(error: RequestError) -> None:
    assert http_error(error).headers == (("x-should-retry", "false"),)


def test_never_sooner() -> None:
    assert all(1.0 <= with_jitter(1.0) <= 1.0 + JITTER for _ in range(100))
