"""What requests leave behind once they have ended: nothing that the garbage collector must find."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from running_server import HTTP, GenerateRequest, RunningServer, asked, error_of, serving

from llm_serving_engine.server.config import GenerationConfig

TIMES = 5
COMPLETIONS = "/v1/completions"
MODULES = ("llm_serving_engine.server", "llm_serving_engine.scheduler")


@contextlib.contextmanager
def garbage() -> Iterator[list[str]]:
    """The types of our objects, and of gRPC's errors, that the block leaves to the collector."""
    found: list[str] = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        ours = (type(one) for one in gc.garbage)
        found += [
            kind.__qualname__
            for kind in ours
            if kind.__module__.startswith(MODULES) or issubclass(kind, grpc.aio.AbortError)
        ]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize(
    "request_",
    [
        asked(""),
        asked(model="another"),
        asked("x" * (GenerationConfig().prompt_bytes_max + 1)),
        asked(max_tokens=2),
    ],
    ids=["invalid", "unknown model", "too large", "answered"],
)
@pytest.mark.parametrize("method", ["Generate", "Stream"])
async def test_rpcs(scripted: RunningServer, method: str, request_: GenerateRequest) -> None:
    async def call() -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            answer: Any = getattr(scripted.inference, method)(request_)
            if method == "Generate":
                await answer
            else:
                _ = [event async for event in answer]

    await call()
    with garbage() as found:
        for _ in range(TIMES):
            await call()
        # Whoever was refused hears of it before the server's side has ended.
        await error_of(scripted.inference.Generate(asked("")))
        await scripted.inference.Generate(asked(max_tokens=1))
    assert found == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"prompt": "hello", "max_tokens": 2}, 200),
        ({"prompt": "hello", "max_tokens": 2, "stream": True}, 200),
        ({"prompt": "hello", "max_tokens": "two"}, 400),
        ({"prompt": "hello", "model": "another"}, 404),
    ],
    ids=["answered", "streamed", "invalid", "unknown model"],
)
async def test_http_requests(body: dict[str, object], status: int) -> None:
    async with (
        serving(http=HTTP) as server,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{server.app.http_port}", trust_env=False, timeout=None
        ) as client,
    ):
        await client.post(COMPLETIONS, json=body)
        with garbage() as found:
            for _ in range(TIMES):
                assert (await client.post(COMPLETIONS, json=body)).status_code == status
        assert found == []


OPEN_REQUESTS = """
import gc
from llm_serving_engine.server.commands.serve import _bound_collections

_bound_collections()
full = []
gc.callbacks.append(lambda phase, info: info["generation"] == 2 and full.append(phase))
held = [[] for _ in range(400_000)]
print(len(full), gc.get_freeze_count() > 1000)
"""


def test_what_many_open_requests_hold_is_not_looked_through_again_and_again() -> None:
    command = [sys.executable, "-c", OPEN_REQUESTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True"]
