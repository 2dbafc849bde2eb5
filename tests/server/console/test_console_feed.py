"""The scheduler's events for the console: one producer, bounded, and nothing without a tab."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from http_pages import get
from running_server import HTTP, RunningServer, gated

from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.server.console.feed import EVENTS_BEHIND_MAX, SchedulerFeed, _Tab

FAST = {**HTTP, "console_interval_seconds": 0.05}
Events = AsyncIterator[tuple[str, Any]]


@contextlib.asynccontextmanager
async def watching(server: RunningServer, path: str = "scheduler") -> AsyncIterator[Events]:
    url = f"http://127.0.0.1:{server.app.http_port}/console/data/{path}"
    async with (
        httpx.AsyncClient(trust_env=False, timeout=None) as client,
        client.stream("GET", url) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = read(answer)
        try:
            yield events
        finally:
            await events.aclose()  # type: ignore[attr-defined]


async def read(answer: httpx.Response) -> Events:
    name = ""
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def feed(server: RunningServer) -> SchedulerFeed:
    return server.app._console.feeds[server.model.name]


async def until(events: Events, request_id: str, state: str) -> Any:
    """The request, as soon as the events tell that it is in a state."""
    async for _, content in events:
        for request in content["requests"]:
            if request["id"] == request_id and request["stages"][-1][0] == state:
                return request
    raise AssertionError("the events ended")


async def test_a_preemption_as_it_happens() -> None:
    async with gated(sequences=1, http=FAST) as server, watching(server) as events:
        name, first = await anext(events)
        assert name == "all"
        assert first["requests"] == []
        assert first["state"]["slots"] == [{"state": "SLOT_STATE_FREE"}]
        low = asyncio.ensure_future(server.generate("1234", request_id="low", priority=1))
        server.runner.let(3)
        await until(events, "low", "decode")
        high = asyncio.ensure_future(server.generate("5678", request_id="high", priority=3))
        await server.recorder.state("high", State.WAITING)
        server.runner.let(1)
        lost = await until(events, "low", "waiting")
        state, event, at, slot, taken_by, *_ = lost["stages"][-1]
        assert (state, event, slot, taken_by) == ("waiting", "preempt", None, "high")
        assert at > lost["stages"][0][2]
        server.runner.open()
        await asyncio.gather(low, high)
        assert (await until(events, "low", "finished"))["output"] == 8


async def test_steps_are_told_with_their_target() -> None:
    async with gated(http=FAST) as server, watching(server) as events:
        await anext(events)
        server.runner.open()
        await server.generate("1234", request_id="one")
        steps: list[list[float]] = []
        while len(steps) < 8:
            _, content = await anext(events)
            steps += content.get("steps", [])
        assert sum(prompt for *_, prompt in steps) == 4
        assert content["state"]["last_step"]["target"].endswith("s")


async def test_a_tab_that_comes_late_gets_everything() -> None:
    async with gated(http=FAST) as server:
        server.runner.open()
        await server.generate(request_id="before")
        async with watching(server, "scheduler/scripted") as events:
            _, first = await anext(events)
            assert [request["id"] for request in first["requests"]] == ["before"]


async def test_without_tabs_nothing_is_produced() -> None:
    async with gated(http=FAST) as server:
        assert feed(server)._producer is None
        async with watching(server) as events:
            await anext(events)
            await anext(events)
            assert feed(server).tabs == 1
            assert feed(server)._producer is not None
        # The server hears of it while it answers something else.
        while feed(server).tabs:
            await get(server, "/livez")
        assert feed(server)._producer is None


async def test_one_tab_too_many_is_refused() -> None:
    limited = {**FAST, "console_watchers_max": 1}
    async with gated(http=limited) as server, watching(server) as events:
        await anext(events)
        refused = await get(server, "/console/data/scheduler")
        assert refused.status_code == 429
        assert "1 pages watch the scheduler" in refused.json()["error"]["message"]


async def test_a_model_that_is_being_loaded_is_told_of() -> None:
    async with gated(http=FAST, load=False) as server, watching(server) as events:
        _, first = await anext(events)
        assert "loading" in first["unavailable"]
        assert "state" not in first


async def test_an_unknown_model() -> None:
    async with gated(http=FAST) as server:
        assert (await get(server, "/console/data/scheduler/other")).status_code == 404


async def test_the_servers_end_ends_the_events() -> None:
    async with gated(http=FAST) as server, watching(server) as events:
        await anext(events)
        server.app._console.close()
        async for _ in events:
            pass


async def test_a_slow_tab_skips() -> None:
    tab = _Tab()
    for number in range(EVENTS_BEHIND_MAX):
        tab.put(b"%d" % number)
    assert not tab.behind
    tab.put(b"next")
    assert tab.behind
    assert await tab.get() == b"next"


@pytest.mark.parametrize("tabs", [3])
async def test_all_tabs_get_the_same_bytes(tabs: int) -> None:
    async with gated(http=FAST) as server, contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(watching(server)) for _ in range(tabs)]
        for stream in streams:
            await anext(stream)
        server.runner.open()
        await server.generate(request_id="one")
        seen = [await until(stream, "one", "finished") for stream in streams]
        assert seen[0] == seen[1] == seen[2]
