"""How many answers one request may have."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from running_server import HTTP, serving

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.mark.parametrize(
    ("path", "asked", "status"),
    [
        (COMPLETIONS, {"prompt": "hello", "n": 4}, 200),
        (COMPLETIONS, {"prompt": "hello", "n": 5}, 400),
        (COMPLETIONS, {"prompt": ["hello", "you"], "n": 2}, 200),
        (COMPLETIONS, {"prompt": ["hello", "you", "two"], "n": 2}, 400),
        (COMPLETIONS, {"prompt": ["a", "b", "c", "d", "e"]}, 400),
        (CHAT, {"messages": [{"role": "user", "content": "hello"}], "n": 5}, 400),
        (COMPLETIONS, {"prompt": "hello", "n": 0}, 400),
    ],
)
async def test_up_to_the_limit(path: str, asked: dict[str, Any], status: int) -> None:
    async with (
        serving(http={**HTTP, "choices_max": 4}) as server,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{server.app.http_port}", trust_env=False, timeout=None
        ) as client,
    ):
        answer = await client.post(path, json={**asked, "max_tokens": 1})
    assert answer.status_code == status
    if status == 200:
        assert len(answer.json()["choices"]) == 4
    else:
        error = answer.json()["error"]
        assert error["param"] == "n"
        assert "answers in all; it can be 1 to 4" in error["message"]
