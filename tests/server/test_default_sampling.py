"""What holds where a request says nothing of sampling: by gRPC and by HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from running_server import HTTP, GenerateRequest, RunningServer, gated, serving
from tiny_model import write_tiny_model

from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.server.default_sampling import scalars
from llm_serving_engine.v1 import models_pb2

RECOMMENDED = {"temp": 0.5, "top_k": 7, "top_p": 0.75, "penalty_repeat": 1.25}
# Float32 keeps these as they are.
IN_FORCE = {
    "temperature": 0.5,
    "top_k": 9,
    "top_p": 0.75,
    "min_p": 0.25,
    "repetition_penalty": 1.25,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


async def post(server: RunningServer, body: dict[str, Any], request_id: str) -> None:
    address = f"http://127.0.0.1:{server.app.http_port}/v1/completions"
    headers = {"x-request-id": request_id}
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
        answer = await client.post(address, json=body, headers=headers)
    assert answer.status_code == 200, answer.text


async def test_file_and_configuration(tmp_path: Path) -> None:
    file = write_tiny_model(tmp_path / "tiny.gguf", sampling=RECOMMENDED)
    runner = {"sequences": 1, "context_per_sequence": 128, "threads": 1}
    configured = {"top_k": 9, "min_p": 0.25}
    tree: Any = {"model": {"runner": runner}, "generation": configured, "http": HTTP}
    async with serving(file, **tree) as server:
        request = GenerateRequest(prompt="x", max_tokens=1, request_id="grpc")
        await server.inference.Generate(request)
        await post(server, {"prompt": "x", "max_tokens": 1}, "http")
        own = {"temperature": 0, "repetition_penalty": 1}
        await post(server, {"prompt": "x", "max_tokens": 1, **own}, "own")
        sequences = server.recorder.sequences
        assert scalars(sequences["grpc"].request.sampling) == IN_FORCE
        assert scalars(sequences["http"].request.sampling) == IN_FORCE
        assert scalars(sequences["own"].request.sampling) == {**IN_FORCE, **own}

        shown = await server.models.GetModel(models_pb2.GetModelRequest())
        told_by_grpc = shown.model.default_sampling
        assert {name: getattr(told_by_grpc, name) for name in IN_FORCE} == IN_FORCE
        assert not told_by_grpc.HasField("seed")
        async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
            answer = await client.get(f"http://127.0.0.1:{server.app.http_port}/v1/models")
        assert answer.json()["data"][0]["default_sampling"] == IN_FORCE


async def test_a_file_that_recommends_nothing() -> None:
    async with gated() as server:
        shown = await server.models.GetModel(models_pb2.GetModelRequest())
        assert scalars(server.model.default_sampling) == scalars(Sampling())
    assert shown.model.default_sampling.top_k == Sampling().top_k
