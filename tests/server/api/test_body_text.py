"""Bodies that are no text, or hold what is none, are refused as such."""

from __future__ import annotations

import gzip

import httpx
import pytest
from running_server import RunningServer

CHAT = b'{"messages":[{"role":"user","content":"%s"}],"max_tokens":1}'


async def post(
    server: RunningServer,
    body: bytes,
    headers: dict[str, str] | None = None,
    path: str = "/v1/chat/completions",
) -> httpx.Response:
    """Send a conversation."""
    url = f"http://127.0.0.1:{server.app.http_port}{path}"
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
        return await client.post(url, content=body, headers=headers)


@pytest.mark.parametrize("text", [rb"a\ud83d", rb"\uDE00b", rb"\ude00\ud83d", rb"\\\ud83d!"])
async def test_half_of_a_character(chatty: RunningServer, text: bytes) -> None:
    answer = await post(chatty, CHAT % text)
    assert answer.status_code == 400
    assert "which is half of a character" in answer.json()["error"]["message"]


@pytest.mark.parametrize("text", [rb"\ud83d\ude00", rb"\\ud83d"])
async def test_a_whole_one(chatty: RunningServer, text: bytes) -> None:
    assert (await post(chatty, CHAT % text)).status_code == 200


@pytest.mark.parametrize("body", [CHAT % b"\xed\xa0\xbd", (CHAT % b"a").decode().encode("utf-16")])
async def test_another_encoding(chatty: RunningServer, body: bytes) -> None:
    answer = await post(chatty, body)
    assert answer.status_code == 400
    assert "the body is not UTF-8: see its byte" in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b" \n"])
async def test_an_empty_body(chatty: RunningServer, body: bytes) -> None:
    answer = await post(chatty, body)
    assert answer.status_code == 400
    assert "the body is empty" in answer.json()["error"]["message"]


async def test_a_compressed_body(chatty: RunningServer) -> None:
    packed = gzip.compress(CHAT % b"a")
    answer = await post(chatty, packed, {"content-encoding": "gzip"})
    assert answer.status_code == 400
    assert "content-encoding 'gzip'; send it without" in answer.json()["error"]["message"]
    plain = await post(chatty, CHAT % b"a", {"content-encoding": "Identity"})
    assert plain.status_code == 200


async def test_nested_beyond_what_can_be_read(chatty: RunningServer) -> None:
    answer = await post(chatty, b"[" * 100_000)
    assert answer.status_code == 400
    assert "too many levels of lists and objects" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("levels", "status"), [(95, 200), (101, 400), (954, 400)])
@pytest.mark.parametrize("stream", [b"true", b"false"])
async def test_nested_beyond_what_can_be_told_again(
    chatty: RunningServer, levels: int, status: int, stream: bytes
) -> None:
    # A response tells the tools again.
    tool = b'{"type":"mcp","a":' + b"[" * levels + b"]" * levels + b"}"
    body = b'{"input":"a","max_output_tokens":1,"stream":%b,"tools":[%b]}' % (stream, tool)
    answer = await post(chatty, body, path="/v1/responses")
    assert answer.status_code == status
    told = "the limit is 100" if status == 400 else "]" * levels
    assert told in answer.text


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"Infinity", b"1e999", b"-1e999"])
async def test_what_is_no_number_of_json(chatty: RunningServer, number: bytes) -> None:
    body = b'{"input":"a","max_output_tokens":1,"tools":[{"type":"mcp","a":%b}]}'
    answer = await post(chatty, body % number, path="/v1/responses")
    assert answer.status_code == 400
    assert f"the body has {number.decode()}" in answer.json()["error"]["message"]


async def test_deep_template_arguments(chatty: RunningServer) -> None:
    body = (CHAT % b"a")[:-1] + b',"chat_template_kwargs":{"a":%s%s}}'
    assert (await post(chatty, body % (b"[" * 31, b"]" * 31))).status_code == 200
    answer = await post(chatty, body % (b"[" * 90, b"]" * 90))
    assert answer.status_code == 400
    assert "have 91 levels of lists and objects; the limit is 32" in answer.text
