from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2

from llm_serving_engine.clients import (
    AsyncClient,
    DeadlineExceeded,
    ModelNotFound,
    ResourceExhausted,
    ServerError,
)


@pytest.fixture
async def client(aio_server):
    async with AsyncClient(aio_server.address, timeout=30) as client:
        yield client


async def ended(server):
    """Whether the stream that hung was ended from outside."""
    return await asyncio.to_thread(server.ended.wait, 30)


async def test_a_streams_deltas_join_to_what_generate_gives(client):
    stream = client.stream("hi", max_tokens=3)
    texts = [delta.text async for delta in stream]
    answer = await client.generate("hi", max_tokens=3)
    assert "".join(texts) == stream.text == answer.text == "w0 w1 w2 "
    assert stream.started.request_id == "made-up"
    assert (stream.finished.usage, stream.finished.timings) == (answer.usage, answer.timings)


async def test_streams_run_side_by_side(client):
    async def text(number):
        stream = client.stream("hi", max_tokens=number)
        return "".join([delta.text async for delta in stream])

    assert await asyncio.gather(*map(text, range(1, 4))) == ["w0 ", "w0 w1 ", "w0 w1 w2 "]


async def test_leaving_the_loop_ends_the_request(aio_server, client):
    aio_server.hang_after = 1
    async for _ in client.stream("hi", max_tokens=9):
        break
    assert await ended(aio_server)


async def test_leaving_the_with_block_ends_the_request(aio_server, client):
    aio_server.hang_after = 1
    async with client.stream("hi", max_tokens=9) as stream:
        deltas = aiter(stream)
        assert (await anext(deltas)).text == "w0 "
    assert await ended(aio_server)
    assert stream.finished is None


async def test_cancel_ends_the_loop_without_an_error(aio_server, client):
    aio_server.hang_after = 1
    stream = client.stream("hi", max_tokens=9)
    texts = []
    async for delta in stream:
        texts.append(delta.text)
        asyncio.get_running_loop().call_soon(stream.cancel)
    assert texts == ["w0 "]
    assert await ended(aio_server)


async def test_cancelling_the_task_ends_the_request_and_the_task(aio_server, client):
    aio_server.hang_after = 1
    hanging = asyncio.Event()
    aio_server.on_hang = hanging.set

    async def read():
        return [delta async for delta in client.stream("hi", max_tokens=9)]

    task = asyncio.create_task(read())
    await hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ended(aio_server)


async def test_cancelling_a_task_that_waits_for_a_whole_answer(aio_server, client):
    aio_server.hang_after = 0
    hanging = asyncio.Event()
    aio_server.on_hang = hanging.set
    task = asyncio.create_task(client.generate("hi", max_tokens=1))
    await hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ended(aio_server)


async def test_a_deadline_that_passes(aio_server, client):
    aio_server.hang_after = 0
    with pytest.raises(DeadlineExceeded, match="the deadline passed before the answer arrived"):
        await client.generate("hi", max_tokens=1, timeout=0.05)
    with pytest.raises(DeadlineExceeded):
        _ = [delta async for delta in client.stream("hi", max_tokens=1, timeout=0.05)]


async def test_errors_carry_their_details(aio_server, client):
    info = error_details_pb2.ErrorInfo(reason="UNKNOWN_MODEL", metadata={"models": "tiny,zoo"})
    refusal = aio_server.fail(grpc.StatusCode.NOT_FOUND, "no model 'x'", info)
    aio_server.failures = [refusal, refusal]
    with pytest.raises(ModelNotFound, match="no model 'x'") as caught:
        await client.generate("hi", model="x")
    assert caught.value.known == ("tiny", "zoo")
    with pytest.raises(ModelNotFound):
        _ = [delta async for delta in client.stream("hi", model="x")]


async def test_a_stream_that_fails_half_way_keeps_what_came(aio_server, client):
    aio_server.fail_after = (2, aio_server.fail(grpc.StatusCode.INTERNAL))
    stream = client.stream("hi", max_tokens=9)
    with pytest.raises(ServerError):
        _ = [delta async for delta in stream]
    assert stream.token_ids == (0, 1)


async def test_a_stream_without_its_last_event_is_an_error(aio_server, client):
    aio_server.truncated = True
    with pytest.raises(ServerError, match="before its last event"):
        _ = [delta async for delta in client.stream("hi", max_tokens=2)]


async def test_refusals_are_tried_again_as_the_server_asks(aio_server):
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=1_000_000))
    full = aio_server.fail(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "full", retry, grpc_retry_pushback_ms="1"
    )
    aio_server.failures = [full, full]
    async with AsyncClient(aio_server.address, attempts=3, timeout=30) as client:
        assert (await client.generate("hi", max_tokens=1)).text == "w0 "
        aio_server.failures = [full, full, full]
        with pytest.raises(ResourceExhausted) as caught:
            await client.generate("hi", max_tokens=1)
    assert caught.value.retry_after == 0.001
    assert len(aio_server.requests) == 6


async def test_the_other_calls(aio_server, client):
    assert (await client.tokenize("to be")).tokens == (b"to", b"be")
    assert await client.detokenize([1, 2], show_special=True) == "<1> <2>"
    assert [model.name for model in await client.models()] == ["tiny", "zoo"]
    assert (await client.model()).capabilities.context_per_sequence == 256
    assert (await client.scheduler_state()).tokens_per_second == 42.5


async def test_watching_ends_with_the_loop(aio_server, client):
    count = 0
    async for state in client.watch_scheduler_state(interval=0.5):
        assert state.model == "tiny"
        count += 1
        if count == 2:
            break
    assert await ended(aio_server)


async def test_tenant_and_metadata_reach_the_server(aio_server):
    async with AsyncClient(
        aio_server.address, tenant="acme", metadata=[("traceparent", "00-a-b-01")]
    ) as client:
        await client.generate("hi", max_tokens=1)
    assert aio_server.metadata[0]["x-tenant-id"] == "acme"
    assert aio_server.metadata[0]["traceparent"] == "00-a-b-01"
