"""Every field of every body, with values of other types: answered or refused, never a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from running_server import HTTP, RunningServer, gated

from llm_serving_engine.server.api.body import Body
from llm_serving_engine.server.api.openapi import OPERATIONS

TURN = {"role": "user", "content": "x"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [TURN], "max_tokens": 1},
    "/v1/completions": {"prompt": "x", "max_tokens": 1},
    "/v1/messages": {"messages": [TURN], "max_tokens": 1},
    "/v1/messages/count_tokens": {"messages": [TURN]},
    "/v1/responses": {"input": [TURN], "max_output_tokens": 1},
    "/v1/responses/input_tokens": {"input": "x"},
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [1]},
}
SIDE_BY_SIDE = 8
VALUES: tuple[Any, ...] = ([{"type": {}, "content": [[]]}], {"type": [], "format": {}})


def bodies(path: str) -> Iterator[dict[str, Any]]:
    (kind,) = (one.body for one in OPERATIONS if one.path == path and one.body)
    for name in {**kind.model_fields, **kind.refused}:
        for value in VALUES:
            yield {**BODIES[path], name: value}


def test_all_paths_are_here() -> None:
    assert {one.path for one in OPERATIONS if one.body} == BODIES.keys()


async def test_values_of_other_types(tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    left = ((path, body) for path in BODIES for body in bodies(path))
    async with gated(http=HTTP, model={"chat_template": str(file)}) as server:
        server.runner.open()
        url = f"http://127.0.0.1:{server.app.http_port}"

        async def work(client: httpx.AsyncClient) -> None:
            for path, body in left:
                answer = await client.post(url + path, json=body)
                assert answer.status_code < 500, (path, body, answer.text)
                assert "the server failed" not in answer.text, (path, body)

        async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
            await asyncio.gather(*(work(client) for _ in range(SIDE_BY_SIDE)))


def number_fields(kind: type[Body]) -> list[str]:
    """The names by which a body's numbers are sent."""
    return [
        name
        for name, schema in kind.model_json_schema()["properties"].items()
        for one in schema.get("anyOf", [schema])
        if one.get("type") in ("integer", "number")
    ]


@pytest.mark.parametrize("path", [path for path in BODIES if path.startswith("/v1")])
def test_booleans_are_no_numbers(path: str) -> None:
    (kind,) = (one.body for one in OPERATIONS if one.path == path and one.body)
    assert number_fields(kind)
    for name in number_fields(kind):
        for value in (True, False):
            with pytest.raises(ValidationError, match="must be a number, not"):
                kind.model_validate({**BODIES[path], name: value})


async def test_the_error_names_the_field_that_is_a_boolean() -> None:
    cases: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("/v1/chat/completions", {"max_tokens": True}, "max_tokens"),
        ("/v1/chat/completions", {"stop_token_ids": [3, False]}, "stop_token_ids[1]"),
        ("/v1/completions", {"prompt": [True]}, "prompt[0]"),
        ("/v1/completions", {"prompt": [[1, True]]}, "prompt[0][1]"),
        ("/v1/completions", {"logit_bias": {"1": True}}, "logit_bias.1"),
        ("/v1/responses", {"temperature": False}, "temperature"),
        ("/detokenize", {"tokens": [True]}, "tokens[0]"),
    )
    async with gated(http=HTTP) as server, httpx.AsyncClient(trust_env=False) as client:
        for path, fields, place in cases:
            url = f"http://127.0.0.1:{server.app.http_port}{path}"
            answer = await client.post(url, json={**BODIES[path], **fields})
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == place


@pytest.mark.parametrize("text", ["1_0", "nan", "infinity", "0", "-1", "1\xa0", "+1", ".5", ""])
async def test_a_header_that_is_no_time(chatty: RunningServer, text: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        url = f"http://127.0.0.1:{chatty.app.http_port}/v1/completions"
        headers = [(b"x-request-timeout", text.encode("latin-1"))]
        answer = await client.post(url, json={"prompt": "x"}, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "x-request-timeout"


async def test_numbers_as_texts(chatty: RunningServer) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        url = f"http://127.0.0.1:{chatty.app.http_port}/v1/completions"
        asked = {"prompt": "x", "max_tokens": "2", "temperature": "1.0", "top_k": "-1"}
        answer = await client.post(url, json=asked, headers={"x-request-timeout": "1e3"})
        assert answer.status_code == 200


async def test_numbers_without_measure() -> None:
    cases = (
        ("max_tokens", "1e308", "max_tokens: is too large"),
        ("top_k", str(2**64), "top_k: is too large"),
        ("seed", f"-{10**400}", "seed: is too large"),
        ("min_tokens", f'"{10**30}"', "min_tokens: is too large"),
        ("n", "NaN", "the body has NaN, which is no number of JSON"),
        ("timeout", '"1e999"', "timeout: must be a finite number"),
        ("temperature", '"-1e999"', "temperature: is -inf; it can be from 0 to 100"),
        ("top_k", "1" * 5000, "the body has a number with too many digits"),
        ("n", '"1_0"', "n: must be a number"),
        ("temperature", '" 1"', "temperature: must be a number"),
        ("timeout", '"nan"', "timeout: must be a number"),
        ("logit_bias", '{"1_0": 1}', "logit_bias: has a key that is not a token id"),
        ("logit_bias", '{"%s": 1}' % ("1" * 5000), "logit_bias: has a key that is not a token id"),
    )
    async with gated(http=HTTP) as server, httpx.AsyncClient(trust_env=False) as client:
        url = f"http://127.0.0.1:{server.app.http_port}/v1/completions"
        for name, number, message in cases:
            answer = await client.post(url, content=f'{{"prompt": "x", "{name}": {number}}}')
            assert answer.status_code == 400
            assert answer.json()["error"]["message"] == message
