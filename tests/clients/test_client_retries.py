"""When a refused call is made again, and when it is given up."""

from __future__ import annotations

import asyncio
import threading

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2

from llm_serving_engine.clients import AsyncClient, Client
from llm_serving_engine.clients.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    RetryableError,
    ServerError,
    ServingError,
    Unavailable,
)
from llm_serving_engine.clients.retries import ATTEMPTS_MAX, Attempts, Retries


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def attempts(
    count: int = ATTEMPTS_MAX, seconds: float = 60.0, timeout: float | None = None
) -> tuple[Attempts, Clock]:
    clock = Clock()
    # The dice give the longest that they can.
    return Attempts(Retries(count, seconds), timeout, clock, lambda low, high: high), clock


@pytest.mark.parametrize("kind", [ResourceExhausted, Unavailable, ConnectionFailed])
def test_as_the_server_asks(kind: type[RetryableError]) -> None:
    trying, _ = attempts(count=4)
    pauses = [trying.pause(kind("full", retry_after=after)) for after in (3.0, 0.0, 0.5, 1.0)]
    assert pauses == [3.0, 0.0, 0.5, None]


@pytest.mark.parametrize("kind", [InvalidArgument, DeadlineExceeded, ServerError])
def test_what_would_fail_again_is_not_tried(kind: type[ServingError]) -> None:
    trying, _ = attempts()
    assert trying.pause(kind("bad")) is None


def test_a_delay_that_doubles_where_the_server_names_none() -> None:
    trying, _ = attempts()
    pauses = [trying.pause(Unavailable("gone")) for _ in range(7)]
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_never_means_never() -> None:
    trying, _ = attempts()
    error = Unavailable("draining")
    error.retry_never = True
    assert trying.pause(error) is None


@pytest.mark.parametrize(("last", "pause"), [(20.0, 20.0), (20.1, None)])
def test_the_budget_of_waiting(last: float, pause: float | None) -> None:
    trying, _ = attempts(seconds=60.0)
    assert [trying.pause(Unavailable("", retry_after=s)) for s in (15.0, 25.0)] == [15.0, 25.0]
    assert trying.pause(Unavailable("", retry_after=last)) == pause


def test_what_is_left_of_the_timeout() -> None:
    trying, clock = attempts(timeout=10.0)
    assert trying.remaining == 10.0
    clock.now += 4.0
    assert trying.remaining == 6.0
    assert trying.pause(Unavailable("", retry_after=6.0)) is None
    assert trying.pause(Unavailable("", retry_after=5.9)) == 5.9
    clock.now += 7.0
    assert trying.remaining == 0.0


def retry_in(seconds: int) -> error_details_pb2.RetryInfo:
    return error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds))


@pytest.mark.parametrize("spent", [{"retry_seconds": 3599}, {"timeout": 3599}])
def test_a_server_that_asks_for_too_much_is_given_up_at_once(server, spent):
    full = server.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", retry_in(3600))
    server.failures = [full, full]
    with Client(server.address, attempts=5, **spent) as client:
        with pytest.raises(ResourceExhausted) as caught:
            client.generate("hi")
        with pytest.raises(ResourceExhausted):
            list(client.stream("hi"))
    assert caught.value.retry_after == 3600
    assert len(server.requests) == 2


def test_a_stream_is_cancelled_while_it_waits_for_its_next_attempt(server):
    server.failures = [server.fail(grpc.StatusCode.UNAVAILABLE, "loading", retry_in(3600))]
    with Client(server.address, attempts=2, retry_seconds=7200) as client:
        stream = client.stream("hi")
        reading = threading.Thread(target=lambda: list(stream))
        reading.start()
        stream.cancel()
        reading.join(30)
        assert not reading.is_alive()
    assert len(server.requests) <= 1


async def test_the_same_with_asyncio(aio_server):
    aio_server.failures = [
        aio_server.fail(grpc.StatusCode.UNAVAILABLE, "loading", retry_in(seconds))
        for seconds in (0, 3600, 3600)
    ]
    async with AsyncClient(aio_server.address, attempts=3, retry_seconds=7200) as client:
        stream = client.stream("hi")

        async def read() -> list[str]:
            return [delta.text async for delta in stream]

        reading = asyncio.ensure_future(read())
        while len(aio_server.requests) < 2:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0)
        stream.cancel()
        assert await reading == []
        with pytest.raises(Unavailable):
            await client.generate("hi", timeout=3000)
    assert len(aio_server.requests) == 3
