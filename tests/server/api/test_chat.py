"""Chat completions, by OpenAI's own client and by the raw protocol."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from running_server import RunningServer

MESSAGES: Any = [{"role": "user", "content": "Say hello."}]


async def test_usage_adds_up(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="", messages=MESSAGES, max_tokens=8, temperature=0
    )
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    usage = answer.usage
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 1 <= usage.completion_tokens <= 8


async def test_stream_gives_the_same_text(client: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "", "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
    whole = await client.chat.completions.create(**asked)
    stream = await client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason


async def test_a_stream_that_asks_for_no_usage_has_no_chunk_without_choices(
    chatty: RunningServer,
) -> None:
    asked = {"messages": MESSAGES, "max_tokens": 4, "stream": True}
    events = await _events(chatty, asked)
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert all(chunk["choices"] for chunk in chunks)
    assert all("finish_reason" in choice for chunk in chunks for choice in chunk["choices"])
    assert chunks[-1]["usage"]["completion_tokens"] >= 1


async def test_max_completion_tokens(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="", messages=MESSAGES, max_completion_tokens=5, extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


async def test_several_choices_are_reproducible(client: openai.AsyncOpenAI) -> None:
    async def texts() -> list[str]:
        stream = await client.chat.completions.create(
            model="", messages=MESSAGES, max_tokens=6, n=3, seed=7, stream=True
        )
        found = ["", "", ""]
        async for chunk in stream:
            for choice in chunk.choices:
                found[choice.index] += choice.delta.content or ""
        return found

    first = await texts()
    assert all(first)
    assert len(set(first)) > 1
    assert first == await texts()


@pytest.mark.parametrize(("seed", "chosen"), [(7, 7), (-2, 2**64 - 2), (-1, None)])
async def test_a_seed_of_minus_one_is_left_to_the_server(
    chatty: RunningServer, seed: int, chosen: int | None
) -> None:
    for name in ("first", "second"):
        asked = {"messages": MESSAGES, "max_tokens": 1, "seed": seed}
        await _post(chatty, asked, {"x-request-id": f"{name}-{seed}"})
    sequences = chatty.recorder.sequences
    seeds = {sequences[f"{name}-{seed}"].request.sampling.seed for name in ("first", "second")}
    assert seeds == {chosen} if chosen is not None else len(seeds) == 2


async def test_content_may_be_parts_or_null(client: openai.AsyncOpenAI) -> None:
    messages: Any = [
        {"role": "user", "content": [{"type": "text", "text": "Say"}]},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "hello."}]},
    ]
    answer = await client.chat.completions.create(
        model="", messages=messages, max_tokens=4, extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].finish_reason == "length"


async def test_an_unknown_model_is_not_found(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="no/such", messages=MESSAGES)
    assert caught.value.code == "model_not_found"
    assert "SmolLM2" in caught.value.message


async def test_logprobs(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="", messages=MESSAGES, max_tokens=3, logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert answer.usage is not None
    assert len(logprobs.content) == answer.usage.completion_tokens
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in logprobs.content)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"guided_regex": "a+"}, "guided_regex"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"n": 0}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"tools": [{"type": "function"}], "tool_choice": "auto"}, "tools"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"adapters": [{"name": "x"}]}, "adapters"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "system"}, *MESSAGES]}, "messages[0].content"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
    ],
)
async def test_refusals_name_the_field(
    chatty: RunningServer, fields: dict[str, Any], param: str
) -> None:
    answer = await _post(chatty, {"messages": MESSAGES, "max_tokens": 2, **fields})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": None}, "messages: is missing"),
        ({"messages": "x"}, "messages: must be a list"),
        ({"messages": [1]}, "messages[0]: must be an object"),
        (
            {"messages": [{"role": "user", "content": ["x"]}]},
            "messages[0].content[0]: must be an object",
        ),
        ({"stream_options": "x"}, "stream_options: must be an object"),
        ({"logit_bias": []}, "logit_bias: must be an object"),
        ({"max_tokens": {}}, "max_tokens: must be a valid integer"),
    ],
)
async def test_refusals_speak_of_json(
    chatty: RunningServer, fields: dict[str, Any], message: str
) -> None:
    answer = await _post(chatty, {"messages": MESSAGES, **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == message


async def test_null_is_a_field_that_was_left_out(chatty: RunningServer) -> None:
    nulls = dict.fromkeys(["model", "ignore_eos", "n", "tools", "stop", "priority", "timeout", "x"])
    answer = await _post(chatty, {"messages": MESSAGES, "max_tokens": 2, **nulls})
    assert answer.status_code == 200, answer.text
    assert "x-ignored-fields" not in answer.headers


async def test_ignored_fields_are_named(chatty: RunningServer) -> None:
    asked = {"messages": MESSAGES, "max_tokens": 2, "user": "me", "store": False, "x": None}
    answer = await _post(chatty, asked)
    assert answer.status_code == 200
    assert answer.headers["x-ignored-fields"] == "user, store"


async def _post(
    server: RunningServer, body: dict[str, Any], headers: dict[str, str] | None = None
) -> httpx.Response:
    address = f"http://127.0.0.1:{server.app.http_port}/v1/chat/completions"
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
        return await client.post(address, json=body, headers=headers)


async def _events(server: RunningServer, body: dict[str, Any]) -> list[str]:
    answer = await _post(server, body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [event.removeprefix("data: ") for event in answer.text.split("\n\n") if event]
