"""Reasoning by every API, from a model whose prompt opens it and from one that opens it itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
import pytest_asyncio
from running_server import HTTP, RunningServer, asked, read_all
from speaking import speaking

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>"
    "{% elif opened %}<think>\n{% endif %}{% endif %}"
)
SAYS = "<think>\nOne and one.\n</think>\n\nTwo."
MESSAGES: Any = [{"role": "user", "content": "1+1?"}]
REASONING, ANSWER = "One and one.", "Two."
# All bytes up to the end of the closing marker.
REASONING_TOKENS = len("\nOne and one.\n</think>")


@pytest_asyncio.fixture(loop_scope="session")
async def thinker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[RunningServer]:
    """A model that opens its reasoning itself; 1,024 tokens of context."""
    async with speaking(monkeypatch, tmp_path, TEMPLATE, SAYS, after="<|assistant|>") as server:
        yield server


def address(server: RunningServer, path: str = "/v1") -> str:
    return f"http://127.0.0.1:{server.app.http_port}{path}"


async def post(server: RunningServer, path: str, **body: Any) -> Any:
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
        answer = await client.post(address(server, path), json=body)
    assert answer.status_code == 200, answer.text
    if not body.get("stream"):
        return answer.json()
    blocks = [block.rpartition("data: ")[2] for block in answer.text.split("\n\n") if block]
    return [json.loads(block) for block in blocks if block != "[DONE]"]


async def test_grpc_gives_reasoning_apart(thinker: RunningServer) -> None:
    chat = {"messages": [{"role": "user", "content": "1+1?"}]}
    request = asked(None, chat=chat, max_tokens=100, ignore_eos=False)
    whole = await thinker.inference.Generate(request)
    assert (whole.reasoning, whole.text) == (REASONING, ANSWER)
    # The byte that completes the opening marker counts, too.
    assert whole.usage.reasoning_tokens == REASONING_TOKENS + 1
    events = await read_all(thinker.inference.Stream(request))
    deltas = [event.delta for event in events if event.HasField("delta")]
    assert "".join(delta.reasoning for delta in deltas) == REASONING
    assert "".join(delta.text for delta in deltas) == ANSWER
    assert events[-1].finished.usage.reasoning_tokens == whole.usage.reasoning_tokens


async def test_a_prompt_that_is_no_chat_has_no_reasoning(thinker: RunningServer) -> None:
    prompt = "<|user|>1+1?<|assistant|>"
    answer = await thinker.generate(prompt, max_tokens=100, ignore_eos=False)
    assert (answer.reasoning, answer.text) == ("", SAYS)


async def test_chat_completions(thinker: RunningServer) -> None:
    async with openai.AsyncOpenAI(base_url=address(thinker), api_key="any") as client:
        create: Any = client.chat.completions.create
        fields: Any = {"model": "", "messages": MESSAGES, "max_tokens": 100}
        whole = await create(**fields)
        message = whole.choices[0].message
        assert (message.reasoning_content, message.content) == (REASONING, ANSWER)
        details = whole.usage.completion_tokens_details
        assert details.reasoning_tokens == REASONING_TOKENS + 1
        stream = await create(**fields, stream=True)
        deltas = [chunk.choices[0].delta async for chunk in stream]
    reasoning = [getattr(delta, "reasoning_content", None) or "" for delta in deltas]
    assert "".join(reasoning) == REASONING
    assert "".join(delta.content or "" for delta in deltas) == ANSWER
    # The reasoning comes first.
    last = max(i for i, text in enumerate(reasoning) if text)
    assert last < min(i for i, delta in enumerate(deltas) if delta.content)


async def test_log_probabilities_of_reasoning_stream_too(thinker: RunningServer) -> None:
    fields = {"messages": MESSAGES, "max_tokens": 100, "logprobs": True, "top_logprobs": 1}
    path = "/v1/chat/completions"
    whole = await post(thinker, path, **fields)
    chunks = await post(thinker, path, stream=True, **fields)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    streamed = [one for part in choices if part["logprobs"] for one in part["logprobs"]["content"]]
    expected = whole["choices"][0]["logprobs"]["content"]
    assert len(expected) == whole["usage"]["completion_tokens"]
    assert streamed == expected


async def test_log_probabilities_leave_the_items_of_a_response_as_they_are(
    thinker: RunningServer,
) -> None:
    fields = {"input": "1+1?", "max_output_tokens": 100, "top_logprobs": 1}
    whole = await post(thinker, "/v1/responses", **fields)
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message"]
    (part,) = whole["output"][1]["content"]
    spelled = "".join(one["token"] for one in part["logprobs"])
    assert spelled.endswith(part["text"])
    assert REASONING not in spelled
    events = await post(thinker, "/v1/responses", stream=True, **fields)
    deltas = [one for one in events if one["type"] == "response.output_text.delta"]
    assert [entry for delta in deltas for entry in delta["logprobs"]] == part["logprobs"]


async def test_the_effort_none_asks_for_no_reasoning(thinker: RunningServer) -> None:
    path = "/v1/chat/completions"
    off = {"messages": MESSAGES, "max_tokens": 1}
    prompts = [
        (await post(thinker, path, **off, **fields))["usage"]["prompt_tokens"]
        for fields in (
            {},
            {"reasoning_effort": "none"},
            {"chat_template_kwargs": {"enable_thinking": False}},
            {"reasoning_effort": "none", "template_arguments": {"enable_thinking": True}},
        )
    ]
    closed = prompts[0] + len("<think></think>")
    assert prompts == [prompts[0], closed, closed, prompts[0]]


async def test_earlier_reasoning_goes_to_the_template(thinker: RunningServer) -> None:
    turns = [*MESSAGES, {"role": "assistant", "content": "2", "reasoning_content": "hm"}, *MESSAGES]
    # Clients send the name that they do not use as null.
    second = {"role": "assistant", "content": "2", "reasoning_content": None, "reasoning": "hm"}
    named = [*MESSAGES, second, *MESSAGES]
    without = [*MESSAGES, {"role": "assistant", "content": "2"}, *MESSAGES]
    path = "/v1/chat/completions"
    lengths = [
        (await post(thinker, path, messages=one, max_tokens=1))["usage"]["prompt_tokens"]
        for one in (turns, named, without)
    ]
    assert lengths[0] == lengths[1] == lengths[2] + len("<think>hm</think>")
    block = {"type": "thinking", "thinking": "hm", "signature": ""}
    content = [block, {"type": "text", "text": "2"}]
    claude = [*MESSAGES, {"role": "assistant", "content": content}, *MESSAGES]
    counted = await post(thinker, "/v1/messages/count_tokens", messages=claude)
    assert counted["input_tokens"] == lengths[0]
    part = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]}
    said = {"type": None, "role": "assistant", "content": "2"}
    items = [MESSAGES[0], part, said, MESSAGES[0]]
    counted = await post(thinker, "/v1/responses/input_tokens", input=items)
    assert counted["input_tokens"] == lengths[0]


async def test_messages_have_thinking_blocks(thinker: RunningServer) -> None:
    async with anthropic.AsyncAnthropic(base_url=address(thinker, ""), api_key="any") as client:
        fields: Any = {"model": "", "messages": MESSAGES, "max_tokens": 100}
        whole = await client.messages.create(**fields)
        async with client.messages.stream(**fields) as stream:
            kinds = [event.type async for event in stream]
            streamed = await stream.get_final_message()
    for message in (whole, streamed):
        blocks = [block.to_dict() for block in message.content]
        thinking = {"type": "thinking", "thinking": REASONING, "signature": ""}
        assert blocks == [thinking, {"type": "text", "text": ANSWER}]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 2


async def test_thinking_can_be_switched_off_in_messages(thinker: RunningServer) -> None:
    path = "/v1/messages/count_tokens"
    on, off = [
        (await post(thinker, path, messages=MESSAGES, thinking={"type": kind}))["input_tokens"]
        for kind in ("enabled", "disabled")
    ]
    assert off == on + len("<think></think>")


@pytest.mark.parametrize("summary", [None, "auto"])
async def test_responses_have_reasoning_items(thinker: RunningServer, summary: str | None) -> None:
    reasoning = {"effort": "low", "summary": summary}
    fields: dict[str, Any] = {"input": "1+1?", "max_output_tokens": 100, "reasoning": reasoning}
    whole = await post(thinker, "/v1/responses", **fields)
    item, message = whole["output"]
    assert [item["type"], message["type"]] == ["reasoning", "message"]
    assert message["content"][0]["text"] == ANSWER
    shown = item["summary"] if summary else item["content"]
    assert [part["text"] for part in shown] == [REASONING]
    details = whole["usage"]["output_tokens_details"]
    assert details["reasoning_tokens"] == REASONING_TOKENS + 1
    events = await post(thinker, "/v1/responses", stream=True, **fields)
    kind = "reasoning_summary_text" if summary else "reasoning_text"
    deltas = [e["delta"] for e in events if e["type"] == f"response.{kind}.delta"]
    assert "".join(deltas) == REASONING
    assert [one["type"] for one in events[-1]["response"]["output"]] == ["reasoning", "message"]


@pytest.mark.parametrize(
    ("setting", "names"),
    [("reasoning", {"reasoning"}), ("both", {"reasoning", "reasoning_content"})],
)
async def test_the_name_of_the_field_is_a_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str, names: set[str]
) -> None:
    http = {**HTTP, "reasoning_field": setting}
    async with speaking(
        monkeypatch, tmp_path, TEMPLATE, SAYS, after="<|assistant|>", http=http
    ) as server:
        fields = {"messages": MESSAGES, "max_tokens": 100}
        whole = await post(server, "/v1/chat/completions", **fields)
        chunks = await post(server, "/v1/chat/completions", stream=True, **fields)
    message = whole["choices"][0]["message"]
    assert {name for name in message if name.startswith("reasoning")} == names
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    streamed = {name for delta in deltas for name in delta if name.startswith("reasoning")}
    assert streamed == names


async def test_a_prompt_that_opens_the_reasoning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    says = SAYS.removeprefix("<think>\n")
    model = {"template_arguments": {"opened": True}}
    async with speaking(
        monkeypatch, tmp_path, TEMPLATE, says, after="<think>\n", model=model
    ) as server:
        answer = await post(server, "/v1/chat/completions", messages=MESSAGES, max_tokens=100)
        cut = await post(server, "/v1/chat/completions", messages=MESSAGES, max_tokens=7)
    message = answer["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == (REASONING, ANSWER)
    message = cut["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("One and", "")
    assert cut["usage"]["completion_tokens_details"] == {"reasoning_tokens": 7}
