"""Status and headers: errors come before them where they can, and they do not wait for long."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import openai
import pytest
from raw_http import raw_http
from running_server import HTTP, RunningServer, gated

from llm_serving_engine.scheduler.errors import RunnerFailed
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.server.retry_delay import JITTER

EARLY = {**HTTP, "headers_seconds": 0}
LATE = {**HTTP, "headers_seconds": 3600}
ASKED: dict[str, Any] = {"prompt": "hello", "max_tokens": 4, "ignore_eos": True}
PATH = "/v1/completions"


def address(server: RunningServer) -> str:
    return f"http://127.0.0.1:{server.app.http_port}/v1"


async def test_headers_of_a_stream_that_waits() -> None:
    async with gated(sequences=1, http=EARLY) as server, raw_http(server) as connection:
        running = asyncio.ensure_future(server.generate())
        await server.runner.held(1)
        connection.post(PATH, {**ASKED, "stream": True})
        assert (await connection.head()).startswith("HTTP/1.1 200 ")
        assert any(states == [State.WAITING] for states in server.recorder.states.values())
        server.runner.open()
        assert (await connection.until(b"[DONE]")).count(b"data: ") == 6
        await running


async def test_a_deadline_that_passes_in_the_queue_has_a_status() -> None:
    async with gated(sequences=1, http=LATE) as server, raw_http(server) as connection:
        running = asyncio.ensure_future(server.generate())
        await server.runner.held(1)
        connection.post(PATH, {**ASKED, "stream": True, "timeout": 0.05})
        head = await connection.head()
        assert head.startswith("HTTP/1.1 504 ")
        assert "x-should-retry: false" in head
        server.runner.open()
        await running


async def test_an_error_after_the_headers_is_an_event() -> None:
    async with gated(sequences=1, http=EARLY) as server, raw_http(server) as connection:
        running = asyncio.ensure_future(server.generate())
        await server.runner.held(1)
        connection.post(PATH, {**ASKED, "stream": True})
        assert (await connection.head()).startswith("HTTP/1.1 200 ")
        (waiting,) = server.model.engine.scheduler.queue
        server.model.engine.cancel(waiting.key, error=RunnerFailed("it failed"))
        event = await connection.until(b"\n\n")
        error = json.loads(event.partition(b"data: ")[2])["error"]
        assert error["code"] == "runner_failed"
        # Neither a finish reason nor [DONE] follows.
        assert b"data:" not in await connection.until(b"0\r\n\r\n")
        server.runner.open()
        await running


async def test_a_full_queue_is_tried_again_and_succeeds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Acceptance case 25."""
    queue = {"queue_requests_max": 1, "tenant_queue_share": 1.0}
    async with gated(sequences=1, http=HTTP, scheduler=queue) as server:
        first = await server.fill()
        async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
            refused = await client.post(f"{address(server)}/completions", json=ASKED)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert float(refused.headers["retry-after"]) >= 1
        async with openai.AsyncOpenAI(base_url=address(server), api_key="any") as client:
            with pytest.raises(openai.RateLimitError):
                await client.with_options(max_retries=0).completions.create(model="", **plain())
            answer = asyncio.ensure_future(client.completions.create(model="", **plain()))
            # Its first try is refused; then there is room.
            with caplog.at_level(logging.INFO, "openai"):
                await server.recorder.until(lambda: len(server.recorder.refusals) >= 3)
                server.runner.open()
                await server.recorder.until(lambda: len(server.recorder.states) == 3)
            said = [one.getMessage().split() for one in caplog.records if "Retrying" in one.message]
            least = server.recorder.refusals[2].retry_after or 0.0
            assert least <= float(said[0][3]) + 0.001 <= least * (1 + JITTER) + 0.002
            assert (await answer).choices[0].finish_reason == "length"
        await asyncio.gather(*first)


def plain() -> dict[str, Any]:
    return {"prompt": "hello", "max_tokens": 4, "extra_body": {"ignore_eos": True}}


async def test_what_is_sent_ahead_and_wrong_does_not_break_into_a_stream() -> None:
    async with gated(http=HTTP) as server, raw_http(server) as connection:
        connection.post("/v1/completions", {"prompt": "x", "stream": True})
        server.runner.let(2)
        assert (await connection.head()).startswith("HTTP/1.1 200 ")
        connection.post("/v1/completions", {"prompt": "x"})
        connection.writer.write(b"\0\r\n\r\n")
        assert b"HTTP/1.1" not in await connection.reader.read()
