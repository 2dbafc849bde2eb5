"""Connections over HTTP: requests sent ahead, and offers of another protocol."""

from __future__ import annotations

import asyncio

import pytest
from http_listening import CHUNKED, CLOSE, HOUR, OK, connections_of, exchange, get, listening, post
from shifted_loop import ShiftedLoop, run_shifted

# As Java's client makes it by default, and in another order, of two protocols.
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
