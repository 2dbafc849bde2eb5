"""Requests that break their runner, among others that must not notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import faulty_backend as faulty
import grpc
import pytest
from google.rpc import error_details_pb2
from running_server import RunningServer, detail, error_of, serving

OTHERS = ("once", "upon", "a time")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(faulty.__file__).parent))


@asynccontextmanager
async def poisonable(fault: int) -> AsyncIterator[RunningServer]:
    """A server whose runner fails as a prompt's first byte says; time is short for HANG alone."""
    model: dict[str, Any] = {
        "backend": "faulty_backend:FaultyBackend",
        "runner": {"sequences": 4, "context_per_sequence": 512},
        "supervision": {"step_seconds_max": 4.0 if fault == faulty.HANG else 30},
    }
    async with serving(model=model) as server:
        yield server


def losses(server: RunningServer) -> float:
    metrics = server.app.metrics.registry.collect()
    return sum(
        sample.value
        for metric in metrics
        for sample in metric.samples
        if sample.name == "llm_serving_engine_runner_losses_total"
    )


@pytest.mark.parametrize("fault", sorted(faulty.FAULTS))
async def test_it_alone_is_refused_within_three_deaths(fault: int) -> None:
    async with poisonable(fault) as server:
        expected = [await server.generate(prompt, max_tokens=60) for prompt in OTHERS]
        # The first is not done before the last has come.
        with server.runner_held():
            running = [asyncio.ensure_future(server.generate(one, max_tokens=60)) for one in OTHERS]
            await server.recorder.taken(2 * len(OTHERS))
        await server.recorder.until(lambda: server.slots_in_use == len(OTHERS))
        error = await error_of(server.generate(chr(fault) + "poison", max_tokens=60))
        assert error.code() is grpc.StatusCode.INTERNAL
        assert detail(error, error_details_pb2.ErrorInfo).reason == "REQUEST_KILLS_RUNNER"
        answers = await asyncio.gather(*running)
        assert [answer.token_ids for answer in answers] == [one.token_ids for one in expected]
        assert losses(server) in (2, 3)  # others may have ended before it was tried
        # It died in its first steps, but it could be loaded: nothing is refused.
        assert server.model.state.value in ("loading", "ready")
        assert (await server.generate("after")).text
