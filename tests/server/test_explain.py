"""What became of a request: by RPC, by the console, and on the command line."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import typer
from http_pages import get
from running_server import HTTP, RunningServer, error_of, gated
from typer.testing import CliRunner

from llm_serving_engine.clients.commands import register
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.v1 import generation_pb2, operations_pb2


async def explain(server: RunningServer, request_id: str, model: str = "") -> Any:
    request = operations_pb2.ExplainRequestRequest(request_id=request_id, model=model)
    return await server.operations.ExplainRequest(request)


async def preempted(server: RunningServer) -> None:
    """Request low, which loses its only slot to high, and both finish."""
    low = asyncio.ensure_future(server.generate("1234", request_id="low", priority=1))
    server.runner.let(3)
    await server.runner.held(4)
    high = asyncio.ensure_future(server.generate("5678", request_id="high", priority=3))
    await server.recorder.state("high", State.WAITING)
    server.runner.open()
    await asyncio.gather(low, high)


async def test_a_preemption_names_who_took_the_slot() -> None:
    async with gated(sequences=1) as server:
        await preempted(server)
        (low,) = (await explain(server, "low")).explanations
        assert [stage.event for stage in low.stages] == [
            *("submit", "admit", "first token", "preempt", "admit", "first token", "finish")
        ]
        assert low.stages[3].taken_by == "high"
        assert [stage.slot for stage in low.stages if stage.HasField("slot")] == [0, 0, 0, 0]
        assert low.priority == generation_pb2.PRIORITY_LOW
        assert (low.prompt_tokens, low.completion_tokens, low.max_tokens) == (4, 8, 8)
        starts = [stage.start.ToNanoseconds() for stage in low.stages]
        assert starts[0] == 0
        assert starts == sorted(starts)
        text = "\n".join(low.sentences)
        assert "class low, with 4 prompt tokens and at most 8 to produce" in text
        assert "Its slot went to request high of class high; it waited" in text
        assert "It finished after" in text


async def test_a_request_that_is_still_there() -> None:
    async with gated(sequences=1) as server:
        calls = await server.fill()
        waiting = list(server.recorder.states)[1]
        (one,) = (await explain(server, waiting)).explanations
        assert [stage.state for stage in one.stages] == [operations_pb2.REQUEST_STATE_WAITING]
        assert not one.HasField("cached_prompt_tokens")
        assert "It has waited" in one.sentences[1]
        assert one.sentences[1].endswith("1 of 1 slots were held, and no request was ahead of it.")
        server.runner.open()
        await asyncio.gather(*calls)


async def test_a_deferral_names_whose_prefix_it_is() -> None:
    async with gated(sequences=2) as server:
        common = "x" * 600
        first = asyncio.ensure_future(server.generate(common + "1", request_id="first"))
        await server.runner.held(1)
        second = asyncio.ensure_future(server.generate(common + "2", request_id="second"))
        await server.recorder.state("second", State.WAITING)
        server.runner.open()
        await asyncio.gather(first, second)
        (one,) = (await explain(server, "second")).explanations
        text = "\n".join(one.sentences)
        assert "deferred to request first, which computed" in text
        assert one.cached_prompt_tokens >= 512


async def test_a_cancelled_request_says_so() -> None:
    async with gated() as server:
        call = server.stream("hello", request_id="gone")
        await server.recorder.state("gone", State.PREFILL)
        call.cancel()
        await server.recorder.state("gone", State.CANCELLED)
        (one,) = (await explain(server, "gone")).explanations
        assert one.sentences[-1].startswith("It was cancelled after")


async def test_the_newest_of_an_id_comes_first_and_the_oldest_are_forgotten() -> None:
    async with gated(explained_requests_max=3) as server:
        server.runner.open()
        for tokens in (1, 2, 3, 4):
            await server.generate("same", request_id="twice", max_tokens=tokens)
        found = (await explain(server, "twice")).explanations
        assert [one.completion_tokens for one in found] == [4, 3, 2]


async def test_errors() -> None:
    async with gated() as server:
        unknown = await error_of(explain(server, "nothing"))
        assert unknown.code() is grpc.StatusCode.NOT_FOUND
        assert "nothing" in (unknown.details() or "")
        empty = await error_of(explain(server, ""))
        assert empty.code() is grpc.StatusCode.INVALID_ARGUMENT
        no_model = await error_of(explain(server, "nothing", "other"))
        assert no_model.code() is grpc.StatusCode.NOT_FOUND


async def test_the_console_tells_the_same() -> None:
    async with gated(sequences=1, http=HTTP) as server:
        await preempted(server)
        answer = await get(server, "/console/data/requests/low")
        (one,) = answer.json()["explanations"]
        (told,) = (await explain(server, "low")).explanations
        assert one["sentences"] == list(told.sentences)
        missing = await get(server, "/console/data/requests/no%2Fthing")
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "request_not_found"


async def test_the_command_prints_sentences_or_json() -> None:
    app = typer.Typer()
    register(app)
    async with gated(sequences=1) as server:
        await preempted(server)

        async def run(*arguments: str) -> Any:
            command = ["explain", *arguments, "--address", server.address]
            return await asyncio.to_thread(CliRunner().invoke, app, command)

        shown = await run("low")
        assert shown.exit_code == 0
        assert "Its slot went to request high of class high" in shown.stdout
        assert shown.stdout.startswith("request low of ")
        as_json = json.loads((await run("low", "--json")).stdout)
        assert as_json["stages"][3]["taken_by"] == "high"
        missing = await run("nothing")
        assert (missing.exit_code, missing.stdout) == (1, "")
        assert missing.stderr.startswith("error: ")
