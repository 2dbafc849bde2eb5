"""Official clients of the HTTP API, connected to servers that tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest_asyncio
from running_server import HTTP, SAME_BITS, RunningServer, serving


def url(server: RunningServer) -> str:
    """The address of a server's HTTP port."""
    return f"http://127.0.0.1:{server.app.http_port}"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chatty(builtin_model_path: Path) -> AsyncIterator[RunningServer]:
    """The built-in model, which has a chat template; 8 sequences of 256 tokens."""
    runner = {"sequences": 8, "context_per_sequence": 256, "threads": 1}
    async with serving(
        builtin_model_path, model={"runner": runner}, http=HTTP, scheduler=SAME_BITS
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def client(chatty: RunningServer) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own client, told nothing but the address."""
    async with openai.AsyncOpenAI(base_url=f"{url(chatty)}/v1", api_key="any") as client:
        yield client
