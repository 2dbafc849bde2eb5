"""Clients that go away: acceptance case 24, and what peers' users complain of most."""

from __future__ import annotations

import pytest
from raw_http import RawHttp, post, raw_http
from running_server import HTTP, RunningServer, gated

from llm_serving_engine.scheduler.lifecycle import State

ASKED = {"prompt": "hello there", "max_tokens": 8, "ignore_eos": True}
PATH = "/v1/completions"


def ask(connection: RawHttp, request_id: str, *, stream: bool) -> None:
    connection.post(PATH, {**ASKED, "stream": stream}, **{"x-request-id": request_id})


async def freed(server: RunningServer, request_id: str) -> None:
    """The request has ended, and so has its hold on a slot once the step is done."""
    await server.recorder.until(lambda: ended(server, request_id))
    server.runner.open()
    await server.recorder.until(lambda: server.slots_in_use == 0)
    assert not server.model.engine.scheduler.live()


def ended(server: RunningServer, request_id: str) -> bool:
    states = [s for name, s in server.recorder.states.items() if name.startswith(request_id)]
    return bool(states) and all(one[-1] is State.CANCELLED for one in states)


@pytest.mark.parametrize("stream", [True, False])
async def test_while_it_waits_in_the_queue(stream: bool) -> None:
    async with (
        gated(sequences=1, http=HTTP) as server,
        raw_http(server) as running,
        raw_http(server) as waiting,
    ):
        ask(running, "running", stream=stream)
        await server.runner.held(1)
        ask(waiting, "gone", stream=stream)
        await server.recorder.taken(2)
        waiting.leave()
        await server.recorder.until(lambda: ended(server, "gone"))
        assert len(server.model.engine.scheduler.queue) == 0
        # The other one is not touched.
        assert server.slots_in_use == 1
        running.leave()
        await freed(server, "running")


@pytest.mark.parametrize("stream", [True, False])
async def test_while_its_prompt_is_computed(stream: bool) -> None:
    async with gated(sequences=1, http=HTTP) as server, raw_http(server) as connection:
        ask(connection, "gone", stream=stream)
        await server.runner.held(1)
        connection.leave()
        await freed(server, "gone")


@pytest.mark.parametrize("stream", [True, False])
async def test_while_its_answer_is_computed(stream: bool) -> None:
    async with gated(sequences=1, http=HTTP) as server, raw_http(server) as connection:
        ask(connection, "gone", stream=stream)
        server.runner.let(2)
        await server.runner.held(3)
        if stream:
            await connection.until(b"data: ")
        connection.leave()
        await freed(server, "gone")


async def test_all_answers_to_a_request_that_is_left() -> None:
    async with gated(sequences=2, http=HTTP) as server, raw_http(server) as connection:
        connection.post(PATH, {**ASKED, "n": 3}, **{"x-request-id": "gone"})
        await server.recorder.taken(3)
        connection.leave()
        await freed(server, "gone")


@pytest.mark.parametrize(("more", "most"), [(1, 8), (7, 8), (2, 3)])
async def test_with_more_requests_sent_ahead(more: int, most: int) -> None:
    http = {**HTTP, "pipelined_max": most}
    async with gated(sequences=1, http=http) as server, raw_http(server) as connection:
        ask(connection, "gone", stream=False)
        await server.runner.held(1)
        for index in range(more):
            ask(connection, f"ahead-{index}", stream=False)
        await connection.writer.drain()
        connection.leave()
        await freed(server, "gone")
        assert len(server.recorder.states) == 1


async def test_with_a_large_body_sent_ahead() -> None:
    async with gated(sequences=1, http=HTTP) as server, raw_http(server) as connection:
        ask(connection, "gone", stream=False)
        await server.runner.held(1)
        connection.post(PATH, {**ASKED, "user": "x" * 1_000_000})
        await connection.writer.drain()
        connection.leave()
        await freed(server, "gone")
        assert len(server.recorder.states) == 1


async def test_with_too_many_requests_sent_ahead() -> None:
    http = {**HTTP, "pipelined_max": 2}
    async with gated(sequences=1, http=http) as server, raw_http(server) as connection:
        ask(connection, "gone", stream=False)
        await server.runner.held(1)
        # At once: so the server has read both when it sees that the client has gone, if it does.
        connection.writer.write(2 * post(PATH, ASKED))
        connection.leave()
        async with raw_http(server) as other:
            other.post("/tokenize", {"prompt": "hello"})
            await other.head()
        # Nothing is read any more, not even that the client has gone.
        assert server.slots_in_use == 1
        server.runner.open()
        await server.recorder.until(lambda: server.slots_in_use == 0)


async def test_before_its_body_is_complete() -> None:
    async with gated(http=HTTP) as server:
        async with raw_http(server) as connection:
            connection.post(PATH, b'{"prompt":', **{"content-length": "100"})
            await connection.writer.drain()
        server.runner.open()
        assert (await server.generate()).text
        assert len(server.recorder.states) == 1
