"""Load over HTTP, on servers that stream as llama-server and OpenAI-style ones do."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing

import pytest
from completion_server import LLAMA, OPENAI, Completions
from shifted_loop import run_shifted

from llm_serving_engine.clients.bench.drive import drive
from llm_serving_engine.clients.bench.grpc_target import GrpcTarget
from llm_serving_engine.clients.bench.llama_server import LlamaServerTarget
from llm_serving_engine.clients.bench.openai_server import OpenAiTarget
from llm_serving_engine.clients.bench.plan import Gate, Phase, PlannedRequest
from llm_serving_engine.clients.bench.record import SHORT_ANSWER, PromptTokens
from llm_serving_engine.clients.bench.target import Ended, Output, TargetError
from llm_serving_engine.clients.bench.targets import target_at

MADE = {LLAMA: LlamaServerTarget, OPENAI: OpenAiTarget}
BOTH = pytest.mark.parametrize("kind", [LLAMA, OPENAI])


async def outputs(server, request, **options):
    """What a target of the server's kind yields for one request."""
    async with (
        server.listening(),
        MADE[server.kind](server.url, **options) as target,
        aclosing(target.stream(request)) as stream,
    ):
        return [output async for output in stream]


async def error_of(server):
    with pytest.raises(TargetError) as caught:
        await outputs(server, PlannedRequest("hello", 3))
    return caught.value


async def record_of(server, request):
    async with server.listening(), MADE[server.kind](server.url) as target:
        (record,) = (await drive(Phase("p", ((request,),)), target)).requests
    return record


async def test_llama_server_tells_tokens_and_their_ids():
    found = await outputs(Completions(), PlannedRequest("hello", 3))
    *tokens, end = found
    assert tokens == [Output(1, f"w{token} ", (token,)) for token in range(3)]
    assert end == Ended(PromptTokens(5, 2), 3)


async def test_a_token_without_an_event_comes_with_the_next_one():
    found = await outputs(Completions(silent=(1, 3)), PlannedRequest("hello", 4))
    assert [output.tokens for output in found[:-1]] == [1, 2, 1]
    assert found[-1].tokens == 4


async def test_what_llama_server_is_asked_for():
    server = Completions()
    async with server.listening(), LlamaServerTarget(server.url) as target:
        for request in (
            PlannedRequest("a", 3, seed=7, temperature=0.5),
            PlannedRequest("b", 3, cache_salt="x"),
        ):
            await drive(Phase("p", ((request,),)), target)
    first, second = server.bodies
    assert first == {
        "prompt": "a",
        "n_predict": 3,
        "temperature": 0.5,
        "seed": 7,
        "ignore_eos": True,
        "stream": True,
        "return_tokens": True,
        "cache_prompt": True,
    }
    assert ("seed" in second, second["cache_prompt"]) == (False, False)


async def test_an_openai_server_tells_texts_and_then_how_many_tokens():
    found = await outputs(Completions(OPENAI, silent=(1,)), PlannedRequest("hello", 3))
    assert found == [Output(1, "w0 "), Output(1, "w2 "), Ended(PromptTokens(5, 2), 3)]


async def test_an_openai_server_without_usage_is_believed_that_it_stopped_for_the_length():
    server = Completions(OPENAI, silent=(1,), tells_usage=False)
    assert (await outputs(server, PlannedRequest("hello", 3)))[-1] == Ended(None, 3)


async def test_what_an_openai_server_is_asked_for():
    server = Completions(OPENAI)
    async with server.listening(), OpenAiTarget(server.url) as target:
        await target.describe()
        await drive(Phase("p", ((PlannedRequest("a", 3, seed=7),),)), target)
    assert server.bodies == [
        {
            "model": "tiny",
            "prompt": "a",
            "max_tokens": 3,
            "min_tokens": 3,
            "temperature": 0.0,
            "seed": 7,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


@BOTH
async def test_an_answer_that_is_too_short_is_an_error(kind):
    record = await record_of(Completions(kind, short=1), PlannedRequest("hello", 3))
    assert (record.error, record.finished, record.tokens) == (SHORT_ANSWER, False, 2)


@BOTH
async def test_the_servers_count_goes_before_that_of_events(kind):
    record = await record_of(Completions(kind, silent=(0, 2)), PlannedRequest("hello", 3))
    assert (record.error, record.finished, record.tokens) == ("", True, 3)
    assert record.text == "w1 "


async def test_what_the_servers_say_of_themselves():
    async with (
        Completions().listening() as llama,
        Completions(OPENAI).listening() as openai,
        LlamaServerTarget(llama.url) as one,
        OpenAiTarget(openai.url) as other,
    ):
        first, second = await one.describe(), await other.describe()
    assert (first.kind, first.version, first.model) == ("llama-server", "b7-abc", "tiny.gguf")
    assert (first.weights, first.slots, first.context) == ("Q4_0", 3, 512)
    assert (second.kind, second.model, second.context) == ("somebody", "tiny", 512)
    assert second.slots is None


@BOTH
@pytest.mark.parametrize(
    ("status", "headers", "code", "retry_after"),
    [
        (429, {"Retry-After": "7"}, "RESOURCE_EXHAUSTED", 7.0),
        (503, {}, "UNAVAILABLE", None),
        (400, {}, "INVALID_ARGUMENT", None),
        (418, {}, "UNKNOWN", None),
    ],
)
async def test_a_refusal_has_the_code_of_grpc(kind, status, headers, code, retry_after):
    body = '{"error": {"code": 1, "message": "too much"}}'
    error = await error_of(Completions(kind, refusal=(status, body, headers)))
    assert (error.code, error.retry_after) == (code, retry_after)
    assert str(error) == f"HTTP {status}: too much"


@BOTH
async def test_an_error_in_a_stream(kind):
    record = await record_of(Completions(kind, break_after=2), PlannedRequest("hello", 4))
    assert (record.error, record.tokens, record.finished) == ("UNAVAILABLE", 2, False)


async def test_no_server_listens():
    async with LlamaServerTarget("http://127.0.0.1:1") as target:
        with pytest.raises(TargetError, match=r"127\.0\.0\.1:1") as caught:
            await target.describe()
    assert caught.value.code == "UNAVAILABLE"


class Overtaken:
    """A target whose clock is moved past every deadline when the first output has come."""

    salted = False

    def __init__(self, target, loop):
        self.target = target
        self.loop = loop

    async def describe(self):
        return await self.target.describe()

    async def stream(self, request):
        async with aclosing(self.target.stream(request)) as stream:
            async for output in stream:
                yield output
                self.loop.ahead = request.deadline + 60.0


@BOTH
def test_a_deadline_ends_a_request_on_the_server_too(kind):
    async def scenario(loop):
        server = Completions(kind, hang_after=1)
        async with server.listening(), MADE[kind](server.url) as target:
            request = PlannedRequest("hello", 4, deadline=3600.0)
            phase = Phase("p", ((request,),))
            (record,) = (await drive(phase, Overtaken(target, loop))).requests
            await server.left.wait()
        assert (record.error, record.failed, record.in_time) == ("DEADLINE_EXCEEDED", False, False)
        assert (record.tokens, record.deadline) == (1, 3600.0)

    run_shifted(scenario)


@BOTH
async def test_a_request_that_is_left_ends_on_the_server(kind):
    server = Completions(kind, hang_after=2)
    async with server.listening(), MADE[kind](server.url) as target:
        request = PlannedRequest("hello", 4, label="x", until=Gate("x", 1))
        (record,) = (await drive(Phase("p", ((request,),)), target)).requests
        await server.left.wait()
    assert (record.error, record.finished) == ("", False)


async def test_many_streams_at_once():
    server = Completions(hang_after=1, expected=120)
    async with server.listening(), LlamaServerTarget(server.url) as target:
        lanes = tuple((PlannedRequest(str(number), 2, deadline=30),) for number in range(120))
        running = asyncio.ensure_future(drive(Phase("p", lanes), target))
        await server.here.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert len(set(server.prompts)) == 120


@pytest.mark.parametrize(
    ("kind", "scheme", "made"),
    [
        (LLAMA, "http", LlamaServerTarget),
        (OPENAI, "http", OpenAiTarget),
        (LLAMA, "llama+http", LlamaServerTarget),
        (LLAMA, "openai+http", OpenAiTarget),
    ],
)
async def test_an_address_tells_the_kind_of_server(kind, scheme, made):
    async with Completions(kind).listening() as server:
        address = server.url.replace("http", scheme)
        async with await target_at(f"{address}/v1/", cache_salt="") as target:
            assert isinstance(target, made)
            assert not target.salted
            assert (await target.describe()).address == server.url


@pytest.mark.parametrize("address", ["127.0.0.1:1", "grpc://127.0.0.1:1"])
async def test_an_address_without_http_is_of_grpc(address):
    async with await target_at(address, cache_salt="x") as target:
        assert isinstance(target, GrpcTarget)
        assert target.salted


@pytest.mark.parametrize("address", ["ftp://a:1", "vllm+http://a:1", "llama+ftp://a:1"])
async def test_an_address_of_no_kind(address):
    with pytest.raises(TargetError, match="not HOST:PORT"):
        await target_at(address, cache_salt="")


async def test_http_without_the_library_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    for name in ("http_target", "llama_server", "openai_server"):
        monkeypatch.delitem(sys.modules, f"llm_serving_engine.clients.bench.{name}")
    with pytest.raises(TargetError, match=r"pip install '\.\[bench\]'"):
        await target_at("http://127.0.0.1:1", cache_salt="")
