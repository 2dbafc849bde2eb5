"""Completions, by OpenAI's own client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from running_server import RunningServer
from speaking import speaking


async def test_a_prompt_is_continued(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(
        model="", prompt="Once upon a time", temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.object == "text_completion"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    # OpenAI's own default.
    assert answer.usage.completion_tokens == 16


async def test_prompts_of_every_form(client: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "", "max_tokens": 3, "temperature": 0}
    ids = [504, 3018, 282]
    whole = await client.completions.create(prompt=ids, **asked)
    several = await client.completions.create(prompt=[ids, [9906]], n=2, **asked)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    assert several.choices[0].text == several.choices[1].text == whole.choices[0].text
    assert several.usage is not None
    assert several.usage.prompt_tokens == 4
    texts = await client.completions.create(prompt=["a", "b c"], **asked)
    assert len(texts.choices) == 2


async def test_a_stream_gives_the_same_text(client: openai.AsyncOpenAI) -> None:
    asked: Any = {"model": "", "prompt": "One, two,", "max_tokens": 6, "temperature": 0}
    whole = await client.completions.create(**asked, echo=True)
    assert whole.choices[0].text.startswith("One, two,")
    stream = await client.completions.create(
        **asked, echo=True, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].text for chunk in chunks[:-1])
    assert text == whole.choices[0].text
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


async def test_logprobs(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(
        model="", prompt="One, two,", max_tokens=4, temperature=0, logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert logprobs.text_offset is not None
    assert logprobs.text_offset[0] == 0
    assert logprobs.text_offset[1] == len(logprobs.tokens[0])
    assert logprobs.top_logprobs is not None
    assert all(len(top) == 2 for top in logprobs.top_logprobs)


async def test_logprobs_of_parts_of_characters(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Each of the model's tokens is a byte.
    asked: Any = {"model": "", "prompt": "say:", "max_tokens": 7, "logprobs": 5}
    async with (
        speaking(monkeypatch, tmp_path, "{{ messages }}", "é🦜x", after="say:") as server,
        openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{server.app.http_port}/v1", api_key="any"
        ) as client,
    ):
        answer = await client.completions.create(**asked)
        chunks = [chunk async for chunk in await client.completions.create(**asked, stream=True)]
    assert answer.choices[0].text == "é🦜x"
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    parts = [f"bytes:\\x{byte:02x}" for byte in "é🦜".encode()]
    assert logprobs.tokens == [*parts, "x"]
    assert logprobs.text_offset == [0, 0, 1, 1, 1, 1, 2]
    assert logprobs.top_logprobs is not None
    assert [len(top) for top in logprobs.top_logprobs] == 7 * [5]
    streamed = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert [one for part in streamed for one in part.text_offset or ()] == logprobs.text_offset
    assert [one for part in streamed for one in part.tokens or ()] == logprobs.tokens


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"prompt": []}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": [10**6]}, "prompt"),
        ({"best_of": 4}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"n": 17}, "n"),
        ({"logprobs": 21}, "logprobs"),
    ],
)
async def test_refusals_name_the_field(
    chatty: RunningServer, fields: dict[str, Any], param: str
) -> None:
    address = f"http://127.0.0.1:{chatty.app.http_port}/completions"
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
        answer = await client.post(address, json={"prompt": "x", "max_tokens": 1, **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_tokens_that_end_the_output_and_a_least_number(chatty: RunningServer) -> None:
    address = f"http://127.0.0.1:{chatty.app.http_port}/v1/completions"
    asked = {"prompt": "One, two,", "max_tokens": 6, "temperature": 0, "ignore_eos": True}
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
        first = (await client.post(address, json={**asked, "max_tokens": 1})).json()
        spelled = {"content": first["choices"][0]["text"]}
        (token,) = (
            await client.post(address.replace("completions", "tokenize"), json=spelled)
        ).json()["tokens"]
        stopped = (await client.post(address, json={**asked, "stop_token_ids": [token]})).json()
        more = (
            await client.post(address, json={**asked, "stop_token_ids": [token], "min_tokens": 4})
        ).json()
    assert stopped["choices"][0]["text"] == ""
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert more["usage"]["completion_tokens"] >= 4
