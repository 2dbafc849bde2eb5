"""Messages in Anthropic's shape, by Anthropic's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import pytest
import pytest_asyncio
from running_server import RunningServer

GREEDY = {"temperature": 0}
MESSAGES: Any = [{"role": "user", "content": "Say hello."}]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def claude(chatty: RunningServer) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """Anthropic's own client, told nothing but the address."""
    address = f"http://127.0.0.1:{chatty.app.http_port}"
    async with anthropic.AsyncAnthropic(base_url=address, api_key="any") as client:
        yield client


async def test_a_message(claude: anthropic.AsyncAnthropic) -> None:
    message = await claude.messages.create(model="", max_tokens=6, messages=MESSAGES)
    assert message.type == "message"
    assert message.role == "assistant"
    (block,) = message.content
    assert block.type == "text"
    assert block.text
    assert message.stop_reason in ("max_tokens", "end_turn")
    assert 1 <= message.usage.output_tokens <= 6


async def test_a_stream_gives_the_same_message(claude: anthropic.AsyncAnthropic) -> None:
    asked: Any = {"model": "", "max_tokens": 8, "messages": MESSAGES, "extra_body": GREEDY}
    whole = await claude.messages.create(**asked)
    async with claude.messages.stream(**asked) as stream:
        kinds = [event.type async for event in stream]
        message = await stream.get_final_message()
    assert message.content[0].text == whole.content[0].text  # type: ignore[union-attr]
    assert message.stop_reason == whole.stop_reason
    assert message.usage.output_tokens == whole.usage.output_tokens
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 1


async def test_tokens_are_counted_as_they_are_used(claude: anthropic.AsyncAnthropic) -> None:
    asked: Any = {"model": "", "messages": MESSAGES, "system": "You are brief."}
    counted = await claude.messages.count_tokens(**asked)
    message = await claude.messages.create(max_tokens=1, **asked)
    usage = message.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


async def test_a_stop_sequence_is_named(claude: anthropic.AsyncAnthropic) -> None:
    asked: Any = {"model": "", "max_tokens": 8, "messages": MESSAGES, "extra_body": GREEDY}
    first = await claude.messages.create(**asked)
    text: str = first.content[0].text
    stop = text[2:4]
    message = await claude.messages.create(**asked, stop_sequences=[stop, "\0\0"])
    assert message.stop_reason == "stop_sequence"
    assert message.stop_sequence == stop
    assert stop not in message.content[0].text


async def test_blocks_and_the_line_that_changes(claude: anthropic.AsyncAnthropic) -> None:
    plain = await claude.messages.count_tokens(model="", messages=MESSAGES, system="Be brief.")
    blocks = await claude.messages.count_tokens(
        model="",
        messages=[{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}],
        system=[
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=1f3a9;"},
            {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
        ],
    )
    assert blocks.input_tokens == plain.input_tokens


async def test_errors_are_in_anthropics_shape(claude: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        await claude.messages.create(model="no/such", max_tokens=1, messages=MESSAGES)
    body: Any = caught.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("choice", [{"type": "auto"}, {"type": "none"}, None])
async def test_a_choice_among_no_tools_asks_for_nothing(chatty: RunningServer, choice: Any) -> None:
    address = f"http://127.0.0.1:{chatty.app.http_port}/v1/messages"
    asked = {"messages": MESSAGES, "max_tokens": 1, "tools": [], "tool_choice": choice}
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
        answer = await client.post(address, json=asked)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tools": [{"name": "f"}]}, "tools"),
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content"),
        ({"temperature": 200}, "temperature"),
        ({"regex": "a+"}, "regex"),
    ],
)
async def test_refusals_name_the_field(
    chatty: RunningServer, fields: dict[str, Any], words: str
) -> None:
    address = f"http://127.0.0.1:{chatty.app.http_port}/v1/messages?beta=true"
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
        answer = await client.post(address, json={"messages": MESSAGES, "max_tokens": 2, **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert words in answer.json()["error"]["message"]
