"""What the console shows of the models."""

from __future__ import annotations

from typing import Any

import httpx
from running_server import HTTP, RunningServer, gated

from llm_serving_engine.backends.build_record import read_build_record


async def models(server: RunningServer) -> Any:
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
        url = f"http://127.0.0.1:{server.app.http_port}/console/data/models"
        answer = await client.get(url)
        assert answer.headers["cache-control"] == "no-store"
        return answer.json()


async def test_a_model_of_llama_cpp(tiny: RunningServer) -> None:
    shown = await models(tiny)
    (model,) = shown["models"]
    assert model["name"] == tiny.model.name
    assert model["state"] == "MODEL_STATE_READY"
    assert model["is_default"] is True
    assert model["settings"]["sequences"] == "16"
    assert sum(model["memory_parts"].values()) > 0
    record = read_build_record()
    if record is None:
        assert shown["build"] is None
    else:
        assert shown["build"]["features"] == record.features
        assert set(shown["build"]["checks"]) == set(record.checks)
        assert "cpu_flags" not in shown["build"]


async def test_a_model_without_a_build() -> None:
    async with gated(http=HTTP) as server:
        shown = await models(server)
        assert shown["build"] is None
        assert shown["models"][0]["backend"] == "scripted"


async def test_a_model_that_is_being_loaded() -> None:
    async with gated(http=HTTP, load=False) as server:
        (model,) = (await models(server))["models"]
        assert model["state"] == "MODEL_STATE_LOADING"
        assert "memory_parts" not in model
