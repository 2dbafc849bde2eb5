"""Connections over HTTP: what is half sent, too large, too many, or not read."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from http_listening import CHUNKED, CLOSE, HOUR, OK, exchange, get, listening, post
from shifted_loop import ShiftedLoop, run_shifted

from llm_serving_engine.server.telemetry.logs import is_ours


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
