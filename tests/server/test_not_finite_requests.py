"""A request whose logits are not finite, as its client and other clients see it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from architectures import SPECIAL, write_architecture
from google.rpc import error_details_pb2
from running_server import RunningServer, detail, error_of, serving

from llm_serving_engine.v1 import generation_pb2, inference_pb2

# No output holds the token either.
GREEDY = generation_pb2.Sampling(temperature=0.0, logit_bias={SPECIAL: -100.0})
PROMPTS = [tuple(range(first, first + 20)) for first in (10, 60, 110)]
POISONED = (*range(10, 20), SPECIAL, *range(20, 30))


@pytest_asyncio.fixture(loop_scope="session", params=["llama", "mamba2"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunningServer]:
    """A model that cannot compute with the token SPECIAL; 4 sequences of 256 tokens."""
    path = write_architecture(tmp_path / "model.gguf", request.param, special=math.nan)
    runner = {"sequences": 4, "context_per_sequence": 256, "threads": 1}
    async with serving(path, model={"runner": runner}) as running:
        yield running


async def test_it_alone_ends_with_an_error_and_the_runner_goes_on(server: RunningServer) -> None:
    def answer(tokens: tuple[int, ...]) -> asyncio.Task[inference_pb2.GenerateResponse]:
        ids = generation_pb2.TokenIds(ids=tokens)
        return asyncio.ensure_future(
            server.inference.Generate(
                inference_pb2.GenerateRequest(
                    prompt_tokens=ids,
                    max_tokens=30,
                    ignore_eos=True,
                    sampling=GREEDY,
                    top_logprobs=2,
                )
            )
        )

    expected = [(await answer(tokens)).token_ids for tokens in PROMPTS]
    process = server.model.runner_process_id
    running = [answer(tokens) for tokens in PROMPTS]
    for _ in range(3):
        error = await error_of(answer(POISONED))
        assert error.code() is grpc.StatusCode.INTERNAL
        info = detail(error, error_details_pb2.ErrorInfo)
        assert (info.reason, info.domain) == ("LOGITS_NOT_FINITE", "llm-serving-engine")
        assert "NaN" in (error.details() or "")
    answers = await asyncio.gather(*running)
    assert [one.token_ids for one in answers] == expected
    # Its slot is used again, by the same process.
    assert (await answer(PROMPTS[0])).token_ids == expected[0]
    assert server.model.runner_process_id == process
