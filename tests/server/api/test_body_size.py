"""Bodies with too much in them are refused before they are parsed."""

from __future__ import annotations

import httpx
from running_server import gated

from llm_serving_engine.server.api.http_exchange import UNCOUNTED_BYTES_MAX


def body(commas: int) -> bytes:
    """A body of spaces and nulls, with so many commas."""
    return b"[" + b" " * UNCOUNTED_BYTES_MAX + b"0" + b",0" * commas + b"]"


async def test_items() -> None:
    async with gated(http={"port": 0, "body_items_max": 1000}) as server:
        url = f"http://127.0.0.1:{server.app.http_port}/v1/completions"
        async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
            fits = await client.post(url, content=body(1000))
            assert fits.status_code == 400
            assert "must be a JSON object" in fits.text
            more = await client.post(url, content=body(1001))
            assert more.status_code == 413
            assert "about 1001 items; the limit is 1000" in more.text


async def test_objects() -> None:
    async with gated(http={"port": 0, "body_objects_max": 1000}) as server:
        url = f"http://127.0.0.1:{server.app.http_port}/v1/completions"
        async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
            fits = await client.post(url, content=body(0) + b" [{}" * 499 + b"[")
            assert fits.status_code == 400
            more = await client.post(url, content=body(0) + b" [{}" * 500)
            assert more.status_code == 413
            assert "about 1001 objects and lists; the limit is 1000" in more.text
