"""Long texts: tokenized on threads of their own, within limits."""

from __future__ import annotations

import asyncio
import threading

import grpc
import pytest
from running_server import RunningServer, error_of, gated

from llm_serving_engine.scheduler.errors import LimitReached
from llm_serving_engine.server.config import GenerationConfig
from llm_serving_engine.server.service import inference
from llm_serving_engine.server.text_executor import TextExecutor
from llm_serving_engine.v1 import inference_pb2


def config(**limits: int) -> GenerationConfig:
    return GenerationConfig.model_validate(limits)


async def test_requests_and_bytes_at_once() -> None:
    work = TextExecutor(config(text_requests_max=3, text_bytes_max=100, text_threads=1))
    go = threading.Event()
    running = asyncio.ensure_future(work.run(50, go.wait))
    second = asyncio.ensure_future(work.run(50, go.wait))
    await asyncio.sleep(0)
    assert work.requests == 2
    with pytest.raises(LimitReached) as bytes_:
        await work.run(1, go.wait)
    assert bytes_.value.subject == "text.bytes"
    third = asyncio.ensure_future(work.run(0, go.wait))
    await asyncio.sleep(0)
    with pytest.raises(LimitReached) as requests:
        await work.run(0, go.wait)
    assert requests.value.subject == "text.requests"
    go.set()
    assert list(await asyncio.gather(running, second, third)) == [True, True, True]
    assert work.requests == 0
    # One alone may be larger than the limit of all: it has a limit of its own.
    assert await work.run(101, lambda: 7) == 7
    work.close()


async def test_the_refused_come_when_enough_is_done() -> None:
    now = 0.0
    limits = config(text_requests_max=2, text_bytes_max=5000, text_threads=2)
    work = TextExecutor(limits, clock=lambda: now)
    go = threading.Event()

    def take() -> None:
        nonlocal now
        now += 2.0

    for _ in range(50):
        await work.run(1000, take)
    running = asyncio.ensure_future(work.run(4000, go.wait))
    await asyncio.sleep(0)
    # 1,500 bytes too many, of which two threads do 1,000 a second.
    with pytest.raises(LimitReached) as bytes_:
        await work.run(2500, take)
    assert bytes_.value.retry_after == pytest.approx(1.5, rel=0.01)
    second = asyncio.ensure_future(work.run(0, go.wait))
    await asyncio.sleep(0)
    with pytest.raises(LimitReached) as requests:
        await work.run(0, take)
    assert requests.value.retry_after == pytest.approx(1.0, rel=0.01)
    go.set()
    await asyncio.gather(running, second)
    work.close()


async def test_work_of_callers_that_have_gone() -> None:
    work = TextExecutor(config(text_threads=1))
    begun, go = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        go.wait()

    running = asyncio.ensure_future(work.run(1, hold))
    await asyncio.to_thread(begun.wait)
    called: list[int] = []
    waiting = asyncio.ensure_future(work.run(1, lambda: called.append(1)))
    await asyncio.sleep(0)
    running.cancel()
    waiting.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    # What has begun cannot be interrupted, so it counts.
    assert work.requests == 1
    go.set()
    assert await work.run(1, lambda: 7) == 7
    assert called == []
    work.close()


async def held_text(server: RunningServer, go: threading.Event) -> asyncio.Task[bool]:
    held = asyncio.create_task(server.model.text_executor.run(1, go.wait))
    await asyncio.sleep(0)
    return held


async def test_requests_that_are_tokenized_count_as_queued() -> None:
    async with gated(scheduler={"queue_requests_max": 1, "tenant_queue_share": 1.0}) as server:
        go = threading.Event()
        held = await held_text(server, go)
        error = await error_of(server.generate())
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "wait or are being tokenized" in (error.details() or "")
        go.set()
        await held
        server.runner.open()
        assert (await server.generate()).text


async def test_too_many_long_prompts() -> None:
    async with gated(generation={"text_requests_max": 1}, context=100_000) as server:
        go = threading.Event()
        held = await held_text(server, go)
        error = await error_of(server.generate("x" * 5000))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "wait for the tokenizer" in (error.details() or "")
        server.runner.open()
        assert (await server.generate("short")).text
        go.set()
        await held
        assert (await server.generate("x" * 5000)).text


async def test_tokens_that_no_client_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    # The scripted tokenizer makes one token of a byte: 6 bytes and its name.
    monkeypatch.setattr(inference, "ANSWER_BYTES_MAX", 7000)
    async with gated() as server:

        async def tokenize(size: int, ids_only: bool = False) -> inference_pb2.TokenizeResponse:
            request = inference_pb2.TokenizeRequest(text="x" * size, ids_only=ids_only)
            answer: inference_pb2.TokenizeResponse = await server.inference.Tokenize(request)
            return answer

        assert len((await tokenize(1000)).tokens) == 1000
        error = await error_of(tokenize(1001))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "set ids_only, or send the text in parts" in (error.details() or "")
        ids = await tokenize(2333, ids_only=True)
        assert (len(ids.token_ids), len(ids.tokens)) == (2333, 0)
        error = await error_of(tokenize(2334, ids_only=True))
        assert "clients take" in (error.details() or "")
        assert "ids_only" not in (error.details() or "")


async def test_a_large_answer_reaches_a_client() -> None:
    async with gated() as server:
        text = "x" * 599_000
        answer = await server.inference.Tokenize(inference_pb2.TokenizeRequest(text=text))
        assert len(answer.token_ids) == len(text)
        assert 2_000_000 < answer.ByteSize() < 4 * 1024 * 1024
