"""Tokens over HTTP: vLLM's fields, and llama-server's."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from running_server import RunningServer


async def ask(server: RunningServer, path: str, body: Any = None) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
        address = f"http://127.0.0.1:{server.app.http_port}{path}"
        return await (client.get(address) if body is None else client.post(address, json=body))


async def test_there_and_back(chatty: RunningServer) -> None:
    text = "Once upon a time, \u00e9\U0001f600"
    tokenized = (await ask(chatty, "/tokenize", {"prompt": text})).json()
    assert tokenized["count"] == len(tokenized["tokens"])
    assert tokenized["max_model_len"] == 256
    assert tokenized["token_strs"] is None
    back = (await ask(chatty, "/detokenize", {"tokens": tokenized["tokens"]})).json()
    assert back == {"prompt": text, "content": text}


async def test_as_llama_servers_clients_ask(chatty: RunningServer) -> None:
    plain = (await ask(chatty, "/v1/tokenize", {"content": "a \u00e9\U0001f600"})).json()
    asked = {"content": "a \u00e9\U0001f600", "with_pieces": True}
    pieces = (await ask(chatty, "/v1/tokenize", asked)).json()["tokens"]
    assert [piece["id"] for piece in pieces] == plain["tokens"]
    data = b"".join(
        piece["piece"].encode() if isinstance(piece["piece"], str) else bytes(piece["piece"])
        for piece in pieces
    )
    assert data.decode() == "a \u00e9\U0001f600"


async def test_a_conversation_has_as_many_tokens_as_its_usage(chatty: RunningServer) -> None:
    messages = [{"role": "user", "content": "Say hello."}]
    asked = {"messages": messages, "return_token_strs": True}
    tokenized = (await ask(chatty, "/tokenize", asked)).json()
    assert tokenized["token_strs"][0] == "<|im_start|>"
    body = {"messages": messages, "max_tokens": 1}
    answer = (await ask(chatty, "/v1/chat/completions", body)).json()
    assert answer["usage"]["prompt_tokens"] == tokenized["count"]


async def test_a_conversation_without_the_beginning_of_the_answer(chatty: RunningServer) -> None:
    asked = {"messages": [{"role": "user", "content": "Say hello."}]}
    whole = (await ask(chatty, "/tokenize", {**asked, "add_generation_prompt": True})).json()
    cut = (await ask(chatty, "/tokenize", {**asked, "add_generation_prompt": False})).json()
    assert (await ask(chatty, "/tokenize", asked)).json() == whole
    assert cut["tokens"] == whole["tokens"][: cut["count"]]
    rest = {"tokens": whole["tokens"][cut["count"] :]}
    text = (await ask(chatty, "/detokenize", rest)).json()["prompt"]
    assert text == "<|im_start|>assistant\n"
    body = {**asked, "add_generation_prompt": False, "max_tokens": 1}
    answer = (await ask(chatty, "/v1/chat/completions", body)).json()
    assert answer["usage"]["prompt_tokens"] == cut["count"]


async def test_names_of_control_tokens_are_text_unless_asked_for(chatty: RunningServer) -> None:
    named = {"prompt": "<|im_start|>"}
    assert (await ask(chatty, "/tokenize", named)).json()["count"] > 1
    parsed = (await ask(chatty, "/tokenize", {**named, "parse_special": True})).json()
    assert parsed["count"] == 1
    hidden = {"tokens": parsed["tokens"], "show_special": False}
    assert (await ask(chatty, "/detokenize", hidden)).json()["prompt"] == ""


async def test_the_beginning_of_the_sequence_is_optional(tiny: RunningServer) -> None:
    """tiny's vocabulary asks for a beginning-of-sequence token or does not: both agree."""
    info = (await ask(tiny, "/tokenizer_info")).json()
    counts = [
        (await ask(tiny, "/tokenize", {"prompt": "a b", "add_special_tokens": add})).json()["count"]
        for add in (True, False)
    ]
    assert counts[0] - counts[1] == int(info["add_bos_token"])


async def test_what_there_is_to_know(chatty: RunningServer) -> None:
    info = (await ask(chatty, "/tokenizer_info")).json()
    assert info["eos_token"] == "<|im_end|>"
    assert "im_start" in info["chat_template"]
    assert info["vocab_size"] == chatty.model.tokenizer.vocabulary_size
    assert (await ask(chatty, "/tokenizer_info?model=x")).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "content": "a"}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "user", "content": "a"}], "tools": [{}]}, "tools"),
        (
            "/tokenize",
            {
                "messages": [{"role": "assistant", "content": "a"}],
                "continue_final_message": True,
                "add_generation_prompt": True,
            },
            "add_generation_prompt",
        ),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [10**9]}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
    ],
)
async def test_refusals_name_the_field(
    chatty: RunningServer, path: str, body: dict[str, Any], param: str
) -> None:
    answer = await ask(chatty, path, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
