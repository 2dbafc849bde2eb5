"""The names by which requests call models: acceptance case 9, and aliases."""

from __future__ import annotations

import grpc
import httpx
import openai
import pytest
from running_server import HTTP, asked, error_of, gated

SLASHED = "owner/some-model"
ALIASES = ["gpt-*", "text[1]", "fixed", SLASHED]


@pytest.mark.parametrize("name", ["", SLASHED, "gpt-4o", "gpt-", "text[1]", "fixed"])
async def test_names_that_are_known(name: str) -> None:
    async with gated(http=HTTP, model={"aliases": ALIASES}) as server:
        server.runner.open()
        base_url = f"http://127.0.0.1:{server.app.http_port}/v1"
        async with openai.AsyncOpenAI(base_url=base_url, api_key="any") as client:
            answer = await client.completions.create(model=name, prompt="x", max_tokens=2)
            assert answer.model == server.model.name
            if name:
                shown = await client.models.retrieve(name)
                assert shown.id == server.model.name
        assert (await server.generate(model=name)).model == server.model.name


@pytest.mark.parametrize("name", ["gpt", "xgpt-4", "text1", "Fixed", "owner", "*"])
async def test_others_are_not_found(name: str) -> None:
    async with gated(http=HTTP, model={"aliases": ALIASES}) as server:
        server.runner.open()
        address = f"http://127.0.0.1:{server.app.http_port}/v1/completions"
        async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
            answer = await client.post(address, json={"model": name, "prompt": "x"})
        assert answer.status_code == 404
        assert server.model.name in answer.json()["error"]["message"]
        error = await error_of(server.inference.Generate(asked(model=name)))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_codex_asks_for_models_in_its_own_way() -> None:
    async with (
        gated(http=HTTP) as server,
        httpx.AsyncClient(trust_env=False, timeout=None) as client,
    ):
        address = f"http://127.0.0.1:{server.app.http_port}/models"
        plain = (await client.get(address)).json()
        slashed = (await client.get(f"{address}/")).json()
        codex = (await client.get(f"{address}?client_version=1")).json()
    assert slashed == plain
    assert "models" not in plain
    assert codex["models"] == []
    assert [one["id"] for one in codex["data"]] == [server.model.name]
