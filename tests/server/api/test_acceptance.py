"""The rest of the acceptance cases, and what users of other servers complain of most.

Cases 1 to 8 are in test_chat.py and test_completions.py, 9 in test_model_names.py,
22 in test_responses.py, 24 in test_departures.py, 25 in test_early_answers.py. Of the
complaints: 1 in test_departures.py, 3 in test_responses.py, 6 in test_chat.py, 9 in
test_model_names.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from raw_http import raw_http
from running_server import HTTP, RunningServer, gated
from speaking import speaking

TURN = "<{{ m.role }}>{{ m.content }}"
TEMPLATE = "{% for m in messages %}" + TURN + "{% endfor %}<assistant>"
MESSAGES: Any = [{"role": "user", "content": "hi"}]


async def chat(server: RunningServer, **body: Any) -> httpx.Response:
    address = f"http://127.0.0.1:{server.app.http_port}/v1/chat/completions"
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
        return await client.post(address, json={"messages": MESSAGES, **body})


async def test_case_7_a_stop_string_over_tokens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    says = "one two three"
    async with speaking(monkeypatch, tmp_path, TEMPLATE, says, after="<assistant>") as server:
        base_url = f"http://127.0.0.1:{server.app.http_port}/v1"
        async with openai.AsyncOpenAI(base_url=base_url, api_key="any") as client:
            fields: Any = {"model": "", "messages": MESSAGES, "stop": ["o th", "zzz"]}
            answer = await client.chat.completions.create(**fields)
            stream = await client.chat.completions.create(**fields, stream=True)
            chunks = [chunk.choices[0] async for chunk in stream]
    assert answer.choices[0].message.content == "one tw"
    assert answer.choices[0].finish_reason == "stop"
    assert "".join(choice.delta.content or "" for choice in chunks) == "one tw"
    assert chunks[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("path", "asked", "alive"),
    [
        ("/v1/completions", {"prompt": "x"}, b": keep-alive"),
        ("/v1/responses", {"input": "x"}, b"event: response.in_progress"),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 2}, b"event: ping"),
    ],
)
async def test_complaint_2_silence_in_a_long_prefill(
    tmp_path: Path, path: str, asked: dict[str, Any], alive: bytes
) -> None:
    file = tmp_path / "template.jinja"
    file.write_text(TEMPLATE)
    http = {**HTTP, "keep_alive_seconds": 0.1, "headers_seconds": 0}
    model = {"chat_template": str(file)}
    async with gated(http=http, model=model) as server, raw_http(server) as connection:
        connection.post(path, {**asked, "stream": True})
        assert (await connection.head()).startswith("HTTP/1.1 200 ")
        # The step is held up, and still something comes, again and again.
        await connection.until(alive)
        await connection.until(alive)
        server.runner.open()


async def test_complaint_4_prompts_are_never_cut(chatty: RunningServer) -> None:
    long: Any = [{"role": "user", "content": "word " * 300}]
    answer = await chat(chatty, messages=long, max_tokens=4)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "messages"
    assert "This model's maximum context length is 256 tokens" in error["message"]
    large = (await chat(chatty, max_tokens=256)).json()["error"]
    assert (large["code"], large["param"]) == ("context_length_exceeded", "max_tokens")


async def test_complaint_5_reasoning_is_read_under_both_names(tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text(
        "{% for m in messages %}<{{ m.role }}>"
        "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
        "{{ m.content }}{% endfor %}<assistant>"
    )
    async with gated(http=HTTP, model={"chat_template": str(file)}) as server:
        server.runner.open()
        for name in ("reasoning", "reasoning_content"):
            turns = [*MESSAGES, {"role": "assistant", "content": "a", name: "why"}, *MESSAGES]
            answer = await chat(server, messages=turns, max_tokens=1)
            assert "x-ignored-fields" not in answer.headers
            # The scripted tokenizer makes one token of a byte.
            assert answer.json()["usage"]["prompt_tokens"] == len(
                "<user>hi<assistant><think>why</think>a<user>hi<assistant>"
            )


async def test_complaint_7_developers_are_heard(chatty: RunningServer) -> None:
    counts = [
        (await chat(chatty, messages=[{"role": role, "content": "Be brief."}, *MESSAGES])).json()
        for role in ("developer", "system")
    ]
    prompts = [answer["usage"]["prompt_tokens"] for answer in counts]
    plain = (await chat(chatty)).json()["usage"]["prompt_tokens"]
    assert prompts[0] == prompts[1]
    assert prompts[0] != plain


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "none"},
        {"tool_choice": "auto", "tools": []},
        {"tools": []},
        {"response_format": {"type": "text"}},
        {"max_completion_tokens": 2},
        {"logprobs": True},
        {"logprobs": True, "stream": True},
        {"modalities": ["text"]},
        {"n": None, "stop": None, "seed": None, "stream_options": None},
    ],
)
async def test_complaint_8_fields_that_ask_for_what_there_is(
    chatty: RunningServer, fields: dict[str, Any]
) -> None:
    answer = await chat(chatty, **{"max_tokens": 2, **fields})
    assert answer.status_code == 200, answer.text


async def test_complaint_10_nothing_has_to_be_switched_on(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="", messages=MESSAGES, max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 1


@pytest.mark.parametrize("logprobs", [True, False])
async def test_logprobs_alone_have_no_alternatives(chatty: RunningServer, logprobs: bool) -> None:
    answer = (await chat(chatty, max_tokens=2, logprobs=logprobs, ignore_eos=True)).json()
    found = answer["choices"][0]["logprobs"]
    if logprobs:
        assert [one["top_logprobs"] for one in found["content"]] == [[], []]
    else:
        assert found is None
