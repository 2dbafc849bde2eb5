"""Responses, by OpenAI's own client and by the raw protocol."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from running_server import RunningServer

from llm_serving_engine.server.api.response_store import ResponseStore, Stored
from llm_serving_engine.server.service.request import Message

# What clients read of every snapshot, and Codex sends in every request.
SNAPSHOT_FIELDS = {"output", "tools", "tool_choice", "text", "error", "incomplete_details"}
CODEX: dict[str, Any] = {
    "client_metadata": {"x": "y"},
    "include": [],
    "instructions": "You are brief.",
    "parallel_tool_calls": True,
    "prompt_cache_key": "k",
    "reasoning": None,
    "store": False,
    "tool_choice": "auto",
    "tools": [{"type": "web_search"}, {"type": "namespace", "name": "n"}],
}


def address(server: RunningServer, path: str = "") -> str:
    return f"http://127.0.0.1:{server.app.http_port}/v1/responses{path}"


async def post(server: RunningServer, path: str = "", **body: Any) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
        return await client.post(address(server, path), json=body)


async def events_of(server: RunningServer, **body: Any) -> list[dict[str, Any]]:
    answer = await post(server, stream=True, **body)
    *blocks, done = [block for block in answer.text.split("\n\n") if block]
    assert done == "data: [DONE]"
    events = []
    for block in blocks:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


async def test_a_response(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model="", input="Say hello.", max_output_tokens=8)
    assert response.object == "response"
    assert response.output_text
    assert response.status in ("completed", "incomplete")
    assert response.usage is not None
    usage = response.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


async def test_a_stream_gives_the_same_text(client: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "", "input": "Say hello.", "max_output_tokens": 8, "temperature": 0}
    whole = await client.responses.create(**asked)
    stream = await client.responses.create(**asked, stream=True)
    events = [event async for event in stream]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    final: Any = events[-1]
    assert "".join(deltas) == whole.output_text == final.response.output_text


async def test_events_are_numbered_and_name_the_same_items(chatty: RunningServer) -> None:
    events = await events_of(chatty, input="Say hello.", max_output_tokens=6)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:-1] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    assert kinds[-1] in ("response.completed", "response.incomplete")
    final = events[-1]["response"]["output"][0]
    assert {event["item_id"] for event in events if "item_id" in event} == {final["id"]}
    assert events[-2]["item"] == final
    text = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
    assert final["content"][0]["text"] == text
    for event in events:
        if "response" in event:
            assert event["response"].keys() >= SNAPSHOT_FIELDS


async def test_an_output_that_is_cut_is_incomplete(chatty: RunningServer) -> None:
    response = (await post(chatty, input="x", max_output_tokens=2, ignore_eos=True)).json()
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["usage"]["output_tokens"] == 2


async def test_the_streaming_helper_of_openais_client(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(
        model="", input="Say hello.", max_output_tokens=3, extra_body={"ignore_eos": True}
    ) as stream:
        events = [event async for event in stream]
    # The helper's final response is that of a completed one only, of any server.
    assert events[-1].type == "response.incomplete"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert events[-1].response.output_text == "".join(deltas) != ""

    ended: Any = {"min_tokens": 2, "logit_bias": {"2": 100}}  # by the end-of-sequence token
    async with client.responses.stream(model="", input="x", extra_body=ended) as stream:
        final = await stream.get_final_response()
    assert final.status == "completed"
    assert final.output_text


async def test_what_codex_sends(chatty: RunningServer) -> None:
    turn = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    events = await events_of(chatty, input=[turn], max_output_tokens=4, **CODEX)
    assert events[-1]["type"] in ("response.completed", "response.incomplete")
    # Its probe: no input, and a single token.
    probe = await post(chatty, input=[], max_output_tokens=1)
    assert probe.status_code == 200


async def test_the_next_turn_goes_on_from_a_kept_response(client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model="", input="My name is Ada.", max_output_tokens=6)
    second = await client.responses.create(
        model="", input="What is it?", previous_response_id=first.id, max_output_tokens=2
    )
    assert first.usage is not None
    assert second.usage is not None
    # Both turns and the answer between them.
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
    again = await client.responses.retrieve(first.id)
    assert again.output_text == first.output_text
    items: Any = await client.responses.input_items.list(first.id)
    assert items.data[0].content[0].text == "My name is Ada."
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)


async def test_instructions_are_not_inherited(chatty: RunningServer) -> None:
    first = (await post(chatty, input="a", instructions="b " * 40, max_output_tokens=1)).json()
    second = await post(chatty, input="a", previous_response_id=first["id"], max_output_tokens=1)
    usage = second.json()["usage"]
    assert usage["input_tokens"] < first["usage"]["input_tokens"]


async def test_what_is_not_stored_is_not_there(chatty: RunningServer) -> None:
    first = (await post(chatty, input="a", store=False, max_output_tokens=1)).json()
    answer = await post(chatty, input="b", previous_response_id=first["id"])
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "previous_response_not_found"


async def test_input_tokens_are_counted(chatty: RunningServer) -> None:
    counted = (await post(chatty, "/input_tokens", input="hello", instructions="x")).json()
    answer = (await post(chatty, input="hello", instructions="x", max_output_tokens=1)).json()
    assert counted["input_tokens"] == answer["usage"]["input_tokens"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "name": "f"}]}, "tools[0]"),
        ({"tools": [{"type": ["web_search"]}]}, "tools[0]"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"truncation": "auto"}, "truncation"),
        ({"background": True}, "background"),
        ({"input": [{"type": "function_call_output"}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0]",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input[0].content[0].text",
        ),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "bot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": "x" * 99_999}]}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
async def test_refusals_name_the_field(
    chatty: RunningServer, fields: dict[str, Any], param: str
) -> None:
    answer = await post(chatty, **{"input": "x", "max_output_tokens": 1, **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def stored(tenant: str, response_id: str, text: str = "") -> Stored:
    return Stored.of(tenant, {"id": response_id}, [Message("user", text)], [])


def test_the_store_is_bounded_in_bytes_and_time() -> None:
    now = [0.0]
    store = ResponseStore(40_000, 60.0, clock=lambda: now[0])
    assert not store.put(stored("a", "large", "x" * 10_000))
    for number in range(5):
        assert store.put(stored("a", f"a{number}", "x" * 3000))
    # A tenant has a quarter: its oldest have gone, and others' stay.
    assert store.get("a", "a0") is None
    assert store.get("a", "a4") is not None
    assert store.put(stored("b", "b0", "x" * 3000))
    assert store.get("a", "a4") is not None
    assert store.get("b", "a4") is None
    now[0] = 61.0
    assert store.get("a", "a4") is None
    assert store.put(stored("b", "b1"))
    assert len(store) == 1


def test_the_store_forgets_the_least_recently_used_first() -> None:
    store = ResponseStore(20_000, 60.0)
    store.put(stored("a", "first"))
    store.put(stored("a", "second"))
    assert store.get("a", "first") is not None
    store.put(stored("a", "third"))
    store.put(stored("a", "fourth"))
    store.put(stored("a", "fifth"))
    assert store.get("a", "second") is None
    assert store.get("a", "fourth") is not None


def test_the_store_is_bounded_over_all_tenants() -> None:
    store = ResponseStore(40_000, 60.0)
    for number in range(40):
        assert store.put(stored(f"tenant-{number}", f"r{number}", "x" * 1000))
    size = stored("tenant-0", "r0", "x" * 1000).size
    assert 40_000 - 2 * size < len(store) * size <= 40_000
    assert store.get("tenant-39", "r39") is not None
    assert store.get("tenant-0", "r0") is None
    # What was forgotten of a tenant gives its room back.
    assert store.remove("tenant-39", "r39")
    assert not store.remove("tenant-39", "r39")
    assert store.put(stored("tenant-39", "again"))
