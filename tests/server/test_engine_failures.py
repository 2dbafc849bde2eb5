"""Engines that fail by a bug of their own, and policies that raise, as callers see it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faulty_backend as faulty
import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from held_runner import HeldRunner, may_start
from running_server import (
    GatedRunner,
    RunningServer,
    asked,
    detail,
    error_of,
    gated,
    serving,
)
from serve_process import serve_process

from llm_serving_engine.backends.backend import LoadError, LoadReport
from llm_serving_engine.backends.scripted import ScriptedBackend
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.policies.first_come import FirstComePolicy
from llm_serving_engine.scheduler.policy import Key
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import StepResult
from llm_serving_engine.server.engine import supervisor
from llm_serving_engine.server.engine.engine import Engine
from llm_serving_engine.server.engine.supervisor import EngineSupervisor
from llm_serving_engine.v1 import inference_pb2_grpc, models_pb2

HEALTH = health_pb2.HealthCheckResponse


class BrokenPolicy(FirstComePolicy):
    """Raises whenever it is asked who is next."""

    def key(self, sequence: Sequence, now: float) -> Key:
        raise KeyError("of its own")


async def test_a_policy_that_raises_costs_no_request() -> None:
    policy = f"{__name__}:BrokenPolicy"
    async with serving(scheduler={"policy": policy}) as server:
        assert (await server.generate()).text
        model = (await server.models.GetModel(models_pb2.GetModelRequest())).model
        assert model.state == models_pb2.MODEL_STATE_READY
        assert model.state_reason == "the policy BrokenPolicy raised KeyError: 'of its own'"
        name = "llm_serving_engine_policy_failed"
        registry = server.app.metrics.registry
        assert registry.get_sample_value(name, {"model": "scripted"}) == 1


@pytest.fixture
def break_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have as many results as it says make the scheduler fail."""
    apply, left = Scheduler.apply, 0

    def failing(scheduler: Scheduler, result: StepResult, now: float) -> None:
        nonlocal left
        if left:
            left -= 1
            raise ZeroDivisionError
        apply(scheduler, result, now)

    def break_steps(steps: int) -> None:
        nonlocal left
        left = steps

    monkeypatch.setattr(Scheduler, "apply", failing)
    return break_steps


async def fail(server: RunningServer) -> None:
    """Ask for something whose step makes the engine fail."""
    error = await error_of(server.generate())
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "the engine failed"


async def test_an_engine_that_fails_is_built_anew(break_steps: Callable[[int], None]) -> None:
    async with serving(make_runner=HeldRunner) as server:
        expected = await server.generate()
        watch = server.health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == HEALTH.SERVING
        killed = server.model.runner_process_id
        for _ in range(2):
            break_steps(1)
            may_start(server).clear()
            await fail(server)
            assert (await watch.read()).status == HEALTH.NOT_SERVING
            may_start(server).set()
            assert (await watch.read()).status == HEALTH.SERVING
            assert (await server.generate()).text == expected.text
        assert server.model.runner_process_id != killed
        assert not server.app.given_up.done()
        watch.cancel()


async def test_meanwhile_requests_are_asked_to_come_again(
    break_steps: Callable[[int], None],
) -> None:
    async with gated(sequences=1) as server:
        server.runner.open()
        server.runner.loading.clear()
        break_steps(1)
        await fail(server)
        await server.recorder.until(lambda: server.model.state.value == "failed")
        error = await error_of(server.generate())
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToNanoseconds() > 0
        server.runner.loading.set()
        await server.recorder.until(lambda: server.model.state.value == "ready")
        assert (await server.generate()).text


async def test_engines_that_fail_again_and_again_are_given_up(
    break_steps: Callable[[int], None],
) -> None:
    async with serving(model={"supervision": {"engine_failures_max": 2}}) as server:
        for _ in range(2):
            await server.recorder.until(lambda: server.model.state.value == "ready")
            break_steps(1)
            await fail(server)
        given_up = await server.app.given_up
        assert given_up.startswith("the engine of model scripted cannot go on: it failed soon")
        assert given_up.endswith("after its start, 2 times in a row")


def test_the_process_ends_with_a_clear_last_line() -> None:
    env = {
        "PYTHONPATH": str(Path(faulty.__file__).parent),
        "LLM_SERVING_ENGINE_MODEL__SUPERVISION__ENGINE_FAILURES_MAX": "1",
        "LLM_SERVING_ENGINE_MODEL__NAME": "faulty",
    }
    backend = "faulty_backend:FaultyBackend"
    with serve_process("--backend", backend, env=env) as process:
        with grpc.insecure_channel(process.address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            with pytest.raises(grpc.RpcError):
                stub.Generate(asked(chr(faulty.NONSENSE)), timeout=60)
        code, stderr = process.end()
    assert code == 70
    last = "error: the engine of model faulty cannot go on: it failed soon after its start, once"
    assert stderr.splitlines()[-1] == last


class Keeper:
    """An EngineSupervisor whose engines fail when the test says so."""

    def __init__(self, failures_max: int = 2) -> None:
        self.now = 0.0
        self.engines: list[Engine] = []
        self.given_up: list[str] = []
        self.runner = GatedRunner("scripted", "", None)
        self.supervisor = EngineSupervisor(
            "m", self.runner, self._build, failures_max, lambda: self.now
        )
        self.supervisor.on_given_up = self.given_up.append
        self.changed = asyncio.Event()
        self.supervisor.on_change = self.changed.set

    def _build(self, report: LoadReport) -> Engine:
        engine = Engine(Scheduler(report.capabilities), self.runner)
        self.engines.append(engine)
        return engine

    async def fail(self, after: float) -> None:
        engine = self.engines[-1]
        engine.scheduler.schedule = None  # type: ignore[method-assign, assignment]
        self.now += after
        engine.runner_lost()  # wakes it
        while self.engines[-1] is engine and not self.given_up:
            self.changed.clear()
            await self.changed.wait()


async def test_an_engine_that_lasted_begins_with_a_clean_slate() -> None:
    kept = Keeper(failures_max=2)
    kept.supervisor.start(await kept.runner.start())
    for _ in range(5):
        await kept.fail(supervisor.STEADY_SECONDS)
    assert kept.given_up == []
    await kept.fail(supervisor.STEADY_SECONDS - 1)
    assert len(kept.given_up) == 1
    await kept.supervisor.close()


async def test_where_no_other_can_be_built_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Keeper(failures_max=9)
    kept.supervisor.start(ScriptedBackend().report)

    async def start(*arguments: Any) -> LoadReport:
        raise LoadError("no file any more")

    monkeypatch.setattr(kept.runner, "start", start)
    await kept.fail(0)
    assert kept.given_up == [
        "the engine of model m cannot go on: another could not be built: no file any more"
    ]
    assert kept.supervisor.engine is None
    await kept.supervisor.close()
