"""Every field of every body, with values of other types: answered or refused, never a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from running_server import HTTP, gated

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
