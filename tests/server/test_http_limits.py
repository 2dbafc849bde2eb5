"""Connections over HTTP: what is half sent, too large, too many, or not read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from shifted_loop import ShiftedLoop, run_shifted
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from llm_serving_engine.server.config import HttpConfig
from llm_serving_engine.server.http_listener import HttpListener
from llm_serving_engine.server.telemetry.logs import is_ours


class Told(list[tuple[str, int]]):
    """The refusals that the listener told of."""

    def __init__(self) -> None:
        super().__init__()
        self.any = asyncio.Event()

    def add(self, reason: str, status: int) -> None:
        self.append((reason, status))
        self.any.set()


LARGE = 64 * 1024 * 1024


def application() -> Starlette:
    async def echo(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def large(request: Request) -> Response:
        return Response(bytes(LARGE))

    async def parts(request: Request) -> Response:
        async def three() -> AsyncIterator[bytes]:
            for part in (b"one ", b"", b"two"):
                yield part

        return StreamingResponse(three())

    gate = asyncio.Event()

    async def held(request: Request) -> Response:
        await gate.wait()
        return PlainTextResponse("held")

    async def release(request: Request) -> Response:
        gate.set()
        return PlainTextResponse("released")

    return Starlette(
        routes=[
            Route("/echo", echo, methods=["GET", "POST"]),
            Route("/large", large),
            Route("/parts", parts),
            Route("/held", held),
            Route("/release", release),
        ]
    )


@contextlib.asynccontextmanager
async def listening(**limits: object) -> AsyncIterator[tuple[HttpListener, Told]]:
    told = Told()
    config = HttpConfig.model_validate({"port": 0, **limits})
    listener = HttpListener(application(), config, told.add)
    listener.start()
    try:
        yield listener, told
    finally:
        await listener.stop()


async def exchange(listener: HttpListener, *parts: bytes) -> bytes:
    """Everything that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    answer = await reader.read()
    writer.close()
    return answer


def get(path: str = "/echo", *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "host: x", *headers, "", ""]
    return "\r\n".join(lines).encode()


def post(size: int, body: bytes, *headers: str) -> bytes:
    lines = ["POST /echo HTTP/1.1", "host: x", f"content-length: {size}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


# Longer than any test; a test that waits for it moves the clock.
HOUR = 3600.0
CLOSE = "connection: close"
OK = b"HTTP/1.1 200 "


@pytest.mark.parametrize("half", [b"", b"GET /ec", b"GET /echo HTTP/1.1\r\nhost: x\r\nx-a: b"])
def test_headers_that_do_not_come(half: bytes) -> None:
    async def scenario(loop: ShiftedLoop) -> None:
        async with listening(header_timeout_seconds=HOUR) as (listener, told):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(half)
            # The server has read them. What it has not read when it closes would reset the answer.
            connections: Any = listener._server.server_state.connections
            while [one._header_bytes for one in connections] != [len(half)]:  # noqa: ASYNC110
                await asyncio.sleep(0)
            loop.ahead += HOUR
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"headers did not come in 60 min" in answer
            assert told == [("header_timeout", 408)]
            writer.close()

    run_shifted(scenario)


async def test_a_body_that_does_not_come() -> None:
    async with listening(body_timeout_seconds=0.01) as (listener, told):
        answer = await exchange(listener, post(10, b"12345"))
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"body did not come in 10 ms" in answer
        assert told == [("body_timeout", 408)]


def test_the_next_request_of_a_connection_has_its_own_time() -> None:
    async def scenario(loop: ShiftedLoop) -> None:
        limits = {"header_timeout_seconds": HOUR, "idle_timeout_seconds": 9 * HOUR}
        async with listening(**limits) as (listener, told):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            loop.ahead += HOUR - 60
            writer.write(get() + b"GET /ec")
            assert (await reader.readuntil(b"\r\n\r\n0")).startswith(OK)
            # The connection's hour is over, the request's is not.
            loop.ahead += HOUR - 60
            await asyncio.sleep(0.001)
            assert told == []
            loop.ahead += 60
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
            assert told == [("header_timeout", 408)]
            writer.close()

    run_shifted(scenario)


async def test_headers_up_to_the_limit() -> None:
    # "/echo", and two lines of a name, a value, and 4 bytes around them.
    used = len("/echo") + len("host") + len("x") + 4 + len("connection") + len("close") + 4
    rest = 300 - used - len("x-a") - 4
    async with listening(header_bytes_max=300) as (listener, told):
        fits = await exchange(listener, get("/echo", CLOSE, f"x-a: {'b' * rest}"))
        assert fits.startswith(b"HTTP/1.1 200 ")
        assert told == []
        more = await exchange(listener, get("/echo", CLOSE, f"x-a: {'b' * (rest + 1)}"))
        assert more.startswith(b"HTTP/1.1 431 ")
        assert b"the limit is 300" in more
        assert told == [("header_size", 431)]


async def test_headers_that_never_end() -> None:
    async with listening(header_bytes_max=1000) as (listener, told):
        answer = await exchange(listener, b"GET /echo HTTP/1.1\r\nx-a: ", b"b" * 1001)
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert told == [("header_size", 431)]


CHUNKED = b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
# More than one read takes.
MUCH = b"b" * 1_000_000


@pytest.mark.parametrize(
    "body",
    [b"1\r\na\r\n0\r\nx-a: " + MUCH, b"1\r\na\r\n0\r\n" + b"x-a: b\r\n" * 200_000, b"1;" + MUCH],
    ids=["a header behind the body", "headers behind the body", "of a chunk"],
)
async def test_what_is_no_body_is_bounded_too(body: bytes) -> None:
    async with listening(header_bytes_max=1000) as (listener, told):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(CHUNKED + body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 431 ")
        assert told == [("header_size", 431)]
        writer.close()


async def test_a_body_in_the_smallest_chunks() -> None:
    async with listening(header_bytes_max=1000) as (listener, told):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(CHUNKED + b"1\r\na\r\n" * 100_000 + b"0\r\nx-a: b\r\n\r\n")
        assert (await reader.readuntil(b"100000")).startswith(b"HTTP/1.1 200 ")
        assert told == []
        writer.close()


@pytest.mark.parametrize(("size", "status"), [(100_000, 200), (100_001, 503)])
async def test_bodies_up_to_the_limit(size: int, status: int) -> None:
    async with listening(bodies_bytes_max=100_000) as (listener, told):
        answer = await exchange(listener, post(size, bytes(size), CLOSE))
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert told == [("bodies", 503)] * (status == 503)


async def test_the_parts_of_bodies_count_together_but_for_small_ones() -> None:
    async with listening(bodies_bytes_max=100_000) as (listener, told):
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(post(100_000, bytes(90_000)))
        # The first answer comes when the part has long been read: both are read by this loop.
        assert (await exchange(listener, post(60_000, bytes(60_000), CLOSE))).startswith(OK)
        refused = await exchange(listener, post(80_000, bytes(80_000), CLOSE))
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"the limit" in refused
        assert told == [("bodies", 503)]
        # What has gone counts no more.
        writer.write(bytes(10_000))
        writer.close()
        await writer.wait_closed()
        assert (await exchange(listener, post(80_000, bytes(80_000), CLOSE))).startswith(OK)


async def test_too_many_connections() -> None:
    async with listening(connections_max=1) as (listener, told):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(get())
        await reader.readuntil(b"\r\n\r\n0")
        turned_away = await exchange(listener)
        assert turned_away.startswith(b"HTTP/1.1 503 ")
        assert told == [("connections", 503)]
        writer.close()


async def test_what_is_no_http() -> None:
    async with listening() as (listener, told):
        assert (await exchange(listener, b"\0\1\2 nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        assert told == [("malformed", 400)]


@pytest.mark.parametrize(
    "sent",
    [
        b"\0\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nconnection: close, upgrade\r\nupgrade: websocket\r\n\r\n",
    ],
)
async def test_callers_cannot_fill_the_log(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with listening() as (listener, _):
        assert (await exchange(listener, sent)).startswith(b"HTTP/1.1 ")
    assert [record.getMessage() for record in caplog.records if is_ours(record)] == []


# As Java's client makes it by default, and one that a proxy made of it.
OFFERS = [
    ("connection: Upgrade, HTTP2-Settings", "http2-settings: AAEAAEAA", "upgrade: h2c"),
    ("upgrade: h2c", "Upgrade: websocket", "connection: keep-alive, Upgrade"),
]


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("apart", [False, True], ids=["in one packet", "in two"])
async def test_the_offer_of_another_protocol_is_ignored(
    offer: tuple[str, ...], apart: bool
) -> None:
    async with listening() as (listener, told):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        # The second answer tells that the first body was not taken for the next request.
        for size in (5, 1_000_000):
            head, body = post(size, b"", *offer), b"b" * size
            writer.write(head if apart else head + body)
            if apart:
                # The server has seen the headers when it serves another.
                await exchange(listener, get("/echo", CLOSE))
                writer.write(body)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(OK)
            assert await reader.readexactly(len(str(size))) == str(size).encode()
        writer.write(2 * post(3, b"abc", *offer) + get("/echo", *offer[1:], CLOSE))
        answers = await reader.read()
        assert (answers.count(OK), answers.count(b"\r\n\r\n3")) == (3, 2)
        writer.close()
        assert told == []


async def test_an_offer_is_a_header_as_others() -> None:
    offer = ("connection: upgrade", f"upgrade: {'h' * 300}")
    async with listening(header_bytes_max=300) as (listener, told):
        answer = await exchange(listener, post(3, b"abc", *offer))
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert told == [("header_size", 431)]


async def test_a_chunked_body_behind_an_offer() -> None:
    head = CHUNKED[:-2] + "\r\n".join([*OFFERS[0], "", ""]).encode()
    async with listening() as (listener, _):
        answer = await exchange(listener, head + b"2\r\nab\r\n0\r\n\r\n" + get("/echo", CLOSE))
        assert answer.count(OK) == 2
        assert b"\r\n\r\n2HTTP/" in answer


async def test_an_answer_that_is_not_read() -> None:
    async with listening(write_timeout_seconds=0.01) as (listener, told):
        with socket.create_connection(("127.0.0.1", listener.port)) as unread:
            unread.sendall(get("/large"))
            await told.any.wait()
            assert told == [("write_timeout", 0)]


def test_an_answer_that_is_read_slowly() -> None:
    async def scenario(loop: ShiftedLoop) -> None:
        async with listening(write_timeout_seconds=HOUR) as (listener, told):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(get("/large"))
            connections: Any = listener._server.server_state.connections
            while [one for one in connections if one._write_timer] == []:  # noqa: ASYNC110
                await asyncio.sleep(0)
            await reader.readuntil(b"\r\n\r\n")
            (connection,) = connections
            for _ in range(3):
                before = connection._unread_bytes()
                # Less than makes the system take more of the answer.
                while connection._unread_bytes() == before:
                    await reader.readexactly(64 * 1024)
                loop.ahead += HOUR
                await asyncio.sleep(0.001)
                assert told == []
            # It stops, once the buffers in between are full.
            while not told:
                loop.ahead += HOUR
                await asyncio.sleep(0.001)
            assert told == [("write_timeout", 0)]
            writer.close()

    run_shifted(scenario)


async def test_a_connection_serves_several_requests() -> None:
    async with listening() as (listener, told):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        for size in (0, 1, 70_000):
            writer.write(post(size, bytes(size)))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(len(str(size))) == str(size).encode()
        writer.close()
        assert told == []


AHEAD = [post(400_000, bytes(300_000)), post(10, b"12345"), b"GET /ec"]


@pytest.mark.parametrize("part", AHEAD, ids=["a large body", "a small body", "headers"])
def test_what_waits_has_its_time_when_it_is_its_turn(part: bytes) -> None:
    async def scenario(loop: ShiftedLoop) -> None:
        limits = {"body_timeout_seconds": HOUR, "header_timeout_seconds": HOUR}
        async with listening(**limits, idle_timeout_seconds=9 * HOUR) as (listener, told):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(get("/held") + part)
            await writer.drain()
            # An answer to another connection: the server has had its turns to read.
            await exchange(listener, post(400_000, bytes(400_000), CLOSE))
            loop.ahead += 2 * HOUR
            await asyncio.sleep(0.001)
            assert told == []
            await exchange(listener, get("/release", CLOSE))
            assert (await reader.readuntil(b"held")).startswith(OK)
            loop.ahead += HOUR - 60
            await asyncio.sleep(0.001)
            assert told == []
            loop.ahead += 60
            await told.any.wait()
            assert [status for _, status in told] == [408]
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
            writer.close()

    run_shifted(scenario)


async def test_large_bodies_behind_an_answer_that_is_computed() -> None:
    limits = {"body_bytes_max": 500_000, "bodies_bytes_max": 1_000_000}
    async with listening(**limits) as (listener, told):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        # The third is more than is read behind an answer.
        writer.write(get("/held") + 3 * post(400_000, bytes(400_000)) + get("/echo", CLOSE))
        (connection,) = await connections_of(listener)
        while not connection.flow.read_paused:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert 500_000 < connection._bodies.total < 1_000_000
        await exchange(listener, get("/release", CLOSE))
        answers = await reader.read()
        assert [answers.count(OK), answers.count(b"400000HTTP"), answers[-1:]] == [5, 3, b"0"]
        assert connection._bodies.total == 0
        assert told == []
        writer.close()


async def test_bodies_that_wait_count_until_they_are_taken() -> None:
    async with listening(bodies_bytes_max=300_000) as (listener, told):
        _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(get("/held") + post(250_000, bytes(250_000)))
        (connection,) = await connections_of(listener)
        while connection._waiting_bytes < 250_000:  # noqa: ASYNC110
            await asyncio.sleep(0)
        refused = await exchange(listener, post(100_000, bytes(100_000), CLOSE))
        assert refused.startswith(b"HTTP/1.1 503 ")
        writer.transport.abort()
        while connection._bodies.total:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert (await exchange(listener, post(100_000, bytes(100_000), CLOSE))).startswith(OK)
        assert told == [("bodies", 503)]


@pytest.mark.parametrize("bad", [b"\0nonsense\r\n\r\n", get("/echo", "x-a: " + "b" * 2000)])
async def test_no_refusal_is_taken_for_the_answer_before_it(bad: bytes) -> None:
    async with listening(header_bytes_max=1000) as (listener, told):
        assert await exchange(listener, get("/held") + bad) == b""
        assert len(told) == 1


async def connections_of(listener: HttpListener) -> list[Any]:
    """The server's side of its connections, of which there is one."""
    connections: Any = listener._server.server_state.connections
    while not connections:  # noqa: ASYNC110
        await asyncio.sleep(0)
    return list(connections)


async def test_an_old_client_gets_no_chunks() -> None:
    async with listening() as (listener, _):
        for headers in ([], ["connection: keep-alive"]):
            asked = get("/parts", *headers).replace(b"HTTP/1.1", b"HTTP/1.0")
            head, body = (await exchange(listener, asked)).split(b"\r\n\r\n")
            assert head.startswith(OK)
            assert b"transfer-encoding" not in head
            assert b"connection: close" in head
            assert body == b"one two"
        whole = await exchange(listener, get().replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert b"content-length: 1\r\n" in whole
        assert whole.endswith(b"\r\n\r\n0")


async def test_an_idle_connection_is_closed() -> None:
    async with listening(idle_timeout_seconds=0.01) as (listener, told):
        answer = await exchange(listener, get())
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert told == []


async def test_head_and_unknown_paths() -> None:
    async with listening() as (listener, _):
        head = get("/echo", CLOSE).replace(b"GET", b"HEAD", 1)
        answer = await exchange(listener, head)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n")
        for path in ("/nothing", "/%ff%00", "/..%2f", "/" + "a" * 10_000):
            unknown = await exchange(listener, get(path, CLOSE))
            assert unknown.startswith(b"HTTP/1.1 404 ")


async def test_several_listeners(socket_folder: Path) -> None:
    path = socket_folder / "http.sock"
    async with listening(listen=["127.0.0.1:0", f"unix:{path}"]) as (listener, _):
        first, second, third = listener.addresses
        assert first.port != second.port
        assert str(third) == f"unix:{path}"
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(get("/echo", CLOSE))
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
    assert not path.exists()
