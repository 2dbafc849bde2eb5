"""Requests of which only a part comes, and bytes that are no requests at all."""

from __future__ import annotations

import asyncio
import gzip
import io
import logging
from collections.abc import Iterator

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from raw_connection import SERVICE, framed, raw_connection
from running_server import RunningServer, asked, gated

from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.server.telemetry.logs import configure
from llm_serving_engine.server.time_limit import TimeLimit
from llm_serving_engine.server.unsent_requests import SUBJECT, UnsentRequests

REQUEST = framed(asked())
REFLECTION = b".ServerReflection/ServerReflectionInfo"

OK = grpc.StatusCode.OK.value[0]
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT.value[0]
RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED.value[0]
INTERNAL = grpc.StatusCode.INTERNAL.value[0]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the server writes to its log, as `serve` sets it up."""
    root, own = logging.getLogger(), logging.getLogger("llm_serving_engine")
    before = root.handlers[:], root.level, own.level
    stream = io.StringIO()
    configure(stream=stream)
    yield stream
    root.handlers[:], root.level, own.level = before


@pytest.mark.parametrize("method", [b"Generate", b"Stream", b"Tokenize"])
@pytest.mark.parametrize(
    "data",
    [None, b"", REQUEST[:3], REQUEST[:5], REQUEST[:-1]],
    ids=["none", "empty", "half a prefix", "a prefix", "all but a byte"],
)
async def test_a_request_that_ends_early(
    scripted: RunningServer, method: bytes, data: bytes | None, log: io.StringIO
) -> None:
    async with raw_connection(scripted.address) as connection:
        answer = await connection.answer(await connection.call(data, path=SERVICE + method))
        assert answer.status == INVALID_ARGUMENT
        assert answer.message == (
            "request: is missing: the call ended before its message did, or it is too large"
        )
        after = await connection.answer(await connection.call(REQUEST))
        assert after.status == OK
    assert f"rpc={(SERVICE + method).decode()[1:]}" in log.getvalue()
    assert "Traceback" not in log.getvalue()


@pytest.mark.parametrize("data", [None, REQUEST[:-1]], ids=["none", "all but a byte"])
async def test_a_request_that_does_not_come(data: bytes | None) -> None:
    async with gated(grpc={"port": 0, "request_timeout_seconds": 0.01}) as server:
        server.runner.open()
        async with raw_connection(server.address) as connection:
            answer = await connection.answer(await connection.call(data, end=False))
        assert answer.status == INVALID_ARGUMENT
        assert answer.message == "request: is missing: it did not come in 10 ms"
        assert server.recorder.states == {}


async def test_more_requests_in_part_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnsentRequests.__init__, "__defaults__", (0.0,))
    async with (
        gated(grpc={"port": 0, "unsent_requests_max": 2}) as server,
        raw_connection(server.address) as connection,
    ):
        server.runner.open()
        first, second, third = [await connection.call(REQUEST[:-1], end=False) for _ in range(3)]
        refused = await connection.answer(first)
        assert refused.status == RESOURCE_EXHAUSTED
        assert refused.message == "the messages of more than 2 requests are on their way"
        for number in (third, second):
            connection.http.send_data(number, REQUEST[-1:])
            await connection.flush()
            assert (await connection.answer(number)).status == OK
        refusals = server.app.metrics.registry.get_sample_value(
            "llm_serving_engine_refusals_total", {"model": "", "reason": SUBJECT}
        )
        assert refusals == 1


async def test_half_a_message_of_a_stream_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnsentRequests.__init__, "__defaults__", (0.0,))
    question = framed(reflection_pb2.ServerReflectionRequest(list_services=""))
    async with (
        gated(grpc={"port": 0, "unsent_requests_max": 1}) as server,
        raw_connection(server.address) as connection,
    ):
        path = b"/grpc.reflection.v1" + REFLECTION
        # A question that is answered, and half of another.
        await connection.call(question + question[:-1], path=path, end=False)
        await connection.call(REQUEST[:-1], end=False)
        # Whichever began to wait first: the answer takes its time too.
        while not (ended := [one for one in connection.answers.values() if one.ended]):
            await connection.receive()
        assert [one.status for one in ended] == [RESOURCE_EXHAUSTED]
        assert ended[0].message == "the messages of more than 1 requests are on their way"


async def test_a_burst_of_requests_is_let_be() -> None:
    unsent = UnsentRequests(1, moment_seconds=3600.0)
    waits = [TimeLimit(3600.0, _never) for _ in range(3)]
    for wait in waits:
        unsent.begin(wait)
    # Nothing has ended this task, which all of them would have.
    await asyncio.sleep(0)
    for wait in waits:
        unsent.end(wait)


def _never() -> RequestError:
    raise AssertionError


async def test_a_request_in_pieces(scripted: RunningServer) -> None:
    async with raw_connection(scripted.address) as connection:
        number = await connection.call(None, end=False)
        for byte in REQUEST:
            connection.http.send_data(number, bytes((byte,)))
            await connection.flush()
        # The call is not ended by its caller: a server has what it needs.
        answer = await connection.answer(number)
    assert answer.status == OK


@pytest.mark.parametrize("sent", [0, 3, 9, 12, -1])
async def test_a_connection_that_breaks_within_a_frame(
    scripted: RunningServer, sent: int, log: io.StringIO
) -> None:
    async with raw_connection(scripted.address) as connection:
        number = await connection.call(None, end=False)
        connection.http.send_data(number, REQUEST, end_stream=True)
        connection.writer.write(connection.http.data_to_send()[:sent])
    assert (await scripted.generate()).text
    assert scripted.slots_in_use == 0
    assert "Traceback" not in log.getvalue()


@pytest.mark.parametrize(
    "name",
    [b"/\xff\xfe/\xfd", b"/a/b", b"/", b"", b"//", b"/unknown method/any", SERVICE, b"x" * 5000],
    ids=repr,
)
async def test_a_method_that_there_is_not(scripted: RunningServer, name: bytes) -> None:
    async with raw_connection(scripted.address) as connection:
        number = await connection.call(REQUEST, path=name)
        if name != b"/unknown method/any":  # gRPC lets that one wait, as nobody asks for it
            assert (await connection.answer(number)).status == UNIMPLEMENTED
        assert (await connection.answer(await connection.call(REQUEST))).status == OK


async def test_metadata_that_are_no_text(scripted: RunningServer, log: io.StringIO) -> None:
    headers = ((b"x-tenant-id", b"\xff\xfe"), (b"traceparent", b"00-\xff"))
    async with raw_connection(scripted.address) as connection:
        answer = await connection.answer(await connection.call(REQUEST, headers=headers))
    assert answer.status == OK
    assert "Traceback" not in log.getvalue()


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (framed(b"", flag=7), (), INVALID_ARGUMENT),
        (framed(asked(), flag=1), (), INTERNAL),
        (framed(asked(), flag=1), ((b"grpc-encoding", b"gzip"),), INTERNAL),
        (b"\0\xff\xff\xff\xff" + REQUEST[5:], (), RESOURCE_EXHAUSTED),
        (REQUEST, ((b"x-bin", b"!!"),), INTERNAL),
        (REQUEST, ((b"x" * 100, b"y" * 60_000),), RESOURCE_EXHAUSTED),
        (REQUEST + REQUEST, (), OK),
        (REQUEST, ((b"grpc-timeout", b"99999999S"),), OK),
    ],
    ids=[
        *("an unknown flag", "compressed, it says", "no gzip", "4 GiB, it says"),
        *("no base64", "60 kB of metadata", "two messages", "three years of time"),
    ],
)
async def test_frames_that_make_no_sense(
    scripted: RunningServer, data: bytes, headers: tuple[tuple[bytes, bytes], ...], status: int
) -> None:
    """What gRPC refuses by itself, it calls INTERNAL; nothing of ours is told."""
    async with raw_connection(scripted.address) as connection:
        # After one that is right: a client that does not know the server's limits yet has others.
        assert (await connection.answer(await connection.call(REQUEST))).status == OK
        answer = await connection.answer(await connection.call(data, headers=headers))
    assert answer.status == status
    assert (await scripted.generate()).text


async def test_a_message_that_grows(scripted: RunningServer) -> None:
    data = framed(gzip.compress(bytes(100 * 1024 * 1024)), flag=1)
    headers = ((b"grpc-encoding", b"gzip"),)
    async with raw_connection(scripted.address) as connection:
        number = await connection.call(None, headers=headers, end=False)
        while data:
            size = min(connection.http.local_flow_control_window(number), 16384)
            if not size:
                await connection.receive()
                continue
            connection.http.send_data(number, data[:size], end_stream=len(data) <= size)
            data = data[size:]
            await connection.flush()
        answer = await connection.answer(number)
    assert answer.status == RESOURCE_EXHAUSTED


@pytest.mark.parametrize("version", [b"v1", b"v1alpha"])
@pytest.mark.parametrize("data", [b"\xff\xff", b"\x22\x02\xff\xfe"], ids=["no message", "no text"])
async def test_reflection_of_garbage(
    scripted: RunningServer, version: bytes, data: bytes, log: io.StringIO
) -> None:
    async with raw_connection(scripted.address) as connection:
        path = b"/grpc.reflection." + version + REFLECTION
        answer = await connection.answer(await connection.call(framed(data), path=path))
    assert answer.status == INVALID_ARGUMENT
    assert answer.message == "request: is not a valid message: are all strings UTF-8?"
    assert "Traceback" not in log.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: test\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
        b"\x16\x03\x01" + b"a" * 200,
        bytes(1000),
    ],
    ids=["HTTP/1.1", "no frames", "TLS", "zeros"],
)
async def test_what_is_not_http2(scripted: RunningServer, data: bytes) -> None:
    host, _, port = scripted.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    await writer.drain()
    await reader.read()  # until it is closed
    writer.close()
    assert (await scripted.generate()).text


@pytest.mark.parametrize("method", [b"GET", b"PUT"])
async def test_other_verbs(scripted: RunningServer, method: bytes) -> None:
    async with raw_connection(scripted.address) as connection:
        answer = await connection.answer(await connection.call(REQUEST, method=method))
        assert answer.headers.get(b"grpc-status") != b"0"
        assert (await connection.answer(await connection.call(REQUEST))).status == OK
