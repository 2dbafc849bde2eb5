"""grpc.health.v1 through a server's life."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from running_server import RunningServer, error_of, gated, read_all

from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.server.health import HealthService

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
NAMES = (
    "",
    "llm_serving_engine.v1.InferenceService",
    "llm_serving_engine.v1.ModelService",
    "llm_serving_engine.v1.OperationsService",
    "scripted",
)


async def check(server: RunningServer, name: str) -> int:
    answer = await server.health.Check(health_pb2.HealthCheckRequest(service=name))
    return int(answer.status)


async def all_statuses(server: RunningServer) -> set[int]:
    """What Check says of every name, having found that List says the same."""
    checked = {name: await check(server, name) for name in NAMES}
    listed = await server.health.List(health_pb2.HealthListRequest())
    assert {name: entry.status for name, entry in listed.statuses.items()} == checked
    return set(checked.values())


def watch(server: RunningServer, name: str = "") -> Any:
    return server.health.Watch(health_pb2.HealthCheckRequest(service=name))


async def test_from_loading_to_the_end() -> None:
    async with gated(sequences=1, load=False) as server:
        watches = {name: watch(server, name) for name in NAMES}
        server.runner.loading.clear()
        loading = asyncio.ensure_future(server.app.load())
        assert await all_statuses(server) == {NOT_SERVING}
        assert {(await one.read()).status for one in watches.values()} == {NOT_SERVING}

        server.runner.loading.set()
        await loading
        assert await all_statuses(server) == {SERVING}
        assert {(await one.read()).status for one in watches.values()} == {SERVING}

        stream = server.stream(request_id="running")
        assert (await stream.read()).HasField("started")
        stopping = asyncio.ensure_future(server.app.stop(60))
        assert {(await one.read()).status for one in watches.values()} == {NOT_SERVING}
        assert await all_statuses(server) == {NOT_SERVING}
        server.runner.open()
        assert (await read_all(stream))[-1].HasField("finished")
        assert [await one.read() for one in watches.values()] == [grpc.aio.EOF] * len(NAMES)
        await stopping


async def test_every_watch_gets_the_last_word_and_ends() -> None:
    # Nothing runs, so nothing holds up the end while the watches are told.
    async with gated() as server:
        watches = [watch(server) for _ in range(50)]
        assert {(await one.read()).status for one in watches} == {SERVING}
        stopping = asyncio.ensure_future(server.app.stop())
        rest = [await read_all(one) for one in watches]
        assert [[event.status for event in events] for events in rest] == [[NOT_SERVING]] * 50  # type: ignore[attr-defined]
        await stopping


async def test_a_change_that_comes_with_the_end_is_still_told() -> None:
    service = HealthService(("a",))
    watching = service.Watch(health_pb2.HealthCheckRequest(service="a"), None)  # type: ignore[arg-type]
    assert (await anext(watching)).status == NOT_SERVING
    waiting = asyncio.ensure_future(anext(watching))
    service.set("a", True)
    service.close()
    assert (await waiting).status == SERVING
    assert [event async for event in watching] == []


async def test_an_unknown_name(scripted: RunningServer) -> None:
    for name in ("nothing", "x" * 20_000):
        error = await error_of(check(scripted, name))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        one = watch(scripted, name)
        assert (await one.read()).status == UNKNOWN
        one.cancel()


async def test_a_watch_that_is_cancelled_leaves_the_others(scripted: RunningServer) -> None:
    leaver, stayer = watch(scripted), watch(scripted)
    assert (await leaver.read()).status == (await stayer.read()).status == SERVING
    leaver.cancel()
    scripted.app.health.set("", False)
    assert (await stayer.read()).status == NOT_SERVING
    scripted.app.health.set("", True)
    assert (await stayer.read()).status == SERVING
    stayer.cancel()


async def test_health_answers_while_every_slot_is_taken() -> None:
    async with gated(sequences=1) as server:
        calls = [asyncio.ensure_future(server.generate(request_id=str(i))) for i in range(3)]
        await server.recorder.state("2", State.WAITING)
        assert await check(server, "") == SERVING
        server.runner.open()
        await asyncio.gather(*calls)
