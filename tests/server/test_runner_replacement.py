"""Runners that hang, die again and again, or do not come back, as callers see it."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from running_server import RunningServer, detail, error_of, read_all, serving

from llm_serving_engine.backends.process import supervision
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.v1 import inference_pb2, models_pb2

HEALTH = health_pb2.HealthCheckResponse
TINY = {"sequences": 4, "context_per_sequence": 512, "threads": 1}


def losses(server: RunningServer, loss: str) -> float | None:
    labels = {"model": server.model.name, "loss": loss}
    registry = server.app.metrics.registry
    return registry.get_sample_value("llm_serving_engine_runner_losses_total", labels)


def has_lost(server: RunningServer, runners: int) -> bool:
    return losses(server, "killed") == runners


def has_done(server: RunningServer, steps: int) -> bool:
    return len(server.recorder.steps) >= steps


def tokens_of(events: list[inference_pb2.StreamResponse]) -> list[int]:
    return [token for event in events for token in event.delta.token_ids]


async def test_streams_survive_a_runner_that_hangs() -> None:
    settings: dict[str, Any] = {"supervision": {"step_seconds_max": 3.0}}
    async with serving(model=settings) as server:
        undisturbed = await server.generate(max_tokens=400)
        stream = server.stream(request_id="survivor", max_tokens=400)
        sequence = await server.recorder.produced("survivor", 20)
        server.signal_runner(signal.SIGSTOP)
        # Whoever asks meanwhile gets an answer: nothing of the server waits for the runner.
        status = await server.health.Check(health_pb2.HealthCheckRequest())
        assert status.status == HEALTH.SERVING
        assert not sequence.state.ended
        events = await read_all(stream)
        assert tokens_of(events) == list(undisturbed.token_ids)
        assert sequence.times(Event.LOSE) == 1
        assert losses(server, "hung") == 1


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 5, "top_k": 0}])
async def test_every_stream_survives_every_kill(
    tiny_quantized_model_path: Path, sampling: dict[str, Any]
) -> None:
    dice = random.Random(7)
    settings: dict[str, Any] = {
        "model": {"runner": TINY, "supervision": {"restart_delay_seconds_max": 0.01}},
        "scheduler": {"determinism": "batch_invariant", "runner_losses_max": 1000},
    }
    async with serving(tiny_quantized_model_path, **settings) as server:
        # More than there are slots, of many lengths, some of which share a beginning.
        requests: list[dict[str, Any]] = [
            {"prompt": "once upon a time " * dice.randrange(1, 12) + chr(97 + n), "max_tokens": 150}
            for n in range(8)
        ]
        answers = [await server.generate(**request, sampling=sampling) for request in requests]
        streams = [server.stream(**request, sampling=sampling) for request in requests]
        reading = asyncio.gather(*map(read_all, streams))
        for kills in range(1, 6):
            steps = len(server.recorder.steps) + dice.randrange(1, 9)
            await server.recorder.until(partial(has_done, server, steps))
            server.signal_runner(signal.SIGKILL)
            # Until then, results may come that it has sent before.
            await server.recorder.until(partial(has_lost, server, kills))
        for events, answer in zip(await reading, answers, strict=True):
            assert tokens_of(events) == list(answer.token_ids)
            assert events[-1].finished.usage.completion_tokens == 150
        assert losses(server, "killed") == 5
        assert server.slots_in_use == 0


async def test_a_runner_that_cannot_be_brought_back_and_then_can(
    write_tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_tiny_model(tmp_path / "model.gguf")
    aside = tmp_path / "aside.gguf"
    async with serving(path, model={"runner": TINY}) as server:
        undisturbed = await server.generate(max_tokens=300)
        stream = server.stream(request_id="patient", max_tokens=300)
        sequence = await server.recorder.produced("patient", 1)
        path.rename(aside)
        monkeypatch.setattr(supervision, "DELAY_FIRST_SECONDS", 3.0)
        server.signal_runner(signal.SIGKILL)
        await server.recorder.until(lambda: server.model.state.value == "failed")
        model = (await server.models.GetModel(models_pb2.GetModelRequest())).model
        assert model.state == models_pb2.MODEL_STATE_FAILED
        assert (
            "its runner was lost again: model.gguf was removed while it was served"
            in model.state_reason
        )
        status = await server.health.Check(health_pb2.HealthCheckRequest(service="model"))
        assert status.status == HEALTH.NOT_SERVING
        error = await error_of(server.generate())
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        delay = detail(error, error_details_pb2.RetryInfo).retry_delay.ToNanoseconds() / 1e9
        assert 1.0 <= delay <= 30.0
        assert (losses(server, "not_loaded") or 0) >= 1
        aside.rename(path)
        # Who was there before waits, and goes on.
        assert sequence.state is State.WAITING
        events = await read_all(stream)
        assert len(tokens_of(events)) == len(undisturbed.token_ids)
        assert server.model.state.value == "ready"
        assert server.model.state_reason == ""


async def test_no_request_waits_for_another_runner_for_ever(
    write_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_tiny_model(tmp_path / "model.gguf")
    async with serving(
        path, model={"runner": TINY}, scheduler={"recovery_seconds_max": 0.1}
    ) as server:
        stream = server.stream(request_id="last", max_tokens=400)
        await server.recorder.produced("last", 1)
        path.unlink()
        server.signal_runner(signal.SIGKILL)
        error = await error_of(read_all(stream))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert detail(error, error_details_pb2.ErrorInfo).reason == "RUNNER_FAILED"
