"""Metrics and health over HTTP."""

from __future__ import annotations

import asyncio

import pytest
from http_pages import get, samples
from running_server import HTTP, RunningServer, gated

from llm_serving_engine.scheduler.lifecycle import State

FULL = {"queue_requests_max": 1, "tenant_queue_share": 1.0}


async def test_a_server_whose_runner_restarts_lives_and_is_not_ready() -> None:
    settings = {"supervision": {"restart_grace_seconds": 0}}
    async with gated(http=HTTP, model=settings) as server:
        assert (await get(server, "/readyz")).status_code == 200
        server.model._runner_changed(None)
        await server.recorder.until(lambda: not server.model.serving)
        assert (await get(server, "/readyz")).status_code == 503
        # Whoever kills a process that does not live would end all its streams.
        assert (await get(server, "/livez")).status_code == 200
        server.model._runner_changed(server.model.report)
        assert (await get(server, "/readyz")).status_code == 200


async def test_healthz_from_loading_to_the_end() -> None:
    async with gated(sequences=1, http=HTTP, load=False) as server:
        loading = await get(server, "/healthz")
        assert (loading.status_code, loading.text) == (503, "NOT_SERVING\n")
        await server.app.load()
        ready = await get(server, "/healthz")
        assert (ready.status_code, ready.text) == (200, "SERVING\n")
        stream = server.stream()
        assert (await stream.read()).HasField("started")
        stopping = asyncio.ensure_future(server.app.stop(60))
        await server.recorder.until(lambda: server.model.state.value == "draining")
        assert (await get(server, "/healthz")).status_code == 503
        stream.cancel()
        server.runner.open()
        await stopping


async def test_other_paths(scripted: RunningServer) -> None:
    assert (await get(scripted, "/")).status_code == 200
    unknown = await get(scripted, "/metrics/x")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "unknown_path"


async def test_metrics_of_real_requests() -> None:
    async with gated(sequences=1, http=HTTP, scheduler=FULL) as server:
        before = await samples(server)
        assert before["llm_serving_engine_model_ready"] == 1
        assert before["llm_serving_engine_sequences_max"] == 1
        running = asyncio.ensure_future(server.generate("12345", request_id="a", max_tokens=4))
        await server.runner.held(1)
        waiting = asyncio.ensure_future(server.generate("123", request_id="b", max_tokens=2))
        await server.recorder.state("b", State.WAITING)
        await asyncio.gather(
            server.generate(), server.generate(max_tokens=0), return_exceptions=True
        )
        busy = await samples(server)
        assert busy["llm_serving_engine_requests_running"] == 1
        assert busy["llm_serving_engine_requests_waiting normal"] == 1
        assert busy["llm_serving_engine_requests_total refused"] == 2
        assert busy["llm_serving_engine_errors_total limit_reached"] == 1
        assert busy["llm_serving_engine_errors_total invalid_field"] == 1
        assert busy["llm_serving_engine_refusals_total queue.requests"] == 1
        assert busy["llm_serving_engine_refusals_total invalid_field"] == 1
        assert busy["llm_serving_engine_cached_tokens"] == 0
        server.runner.open()
        await asyncio.gather(running, waiting)
        done = await samples(server)
        assert done["llm_serving_engine_requests_running"] == 0
        assert done["llm_serving_engine_requests_waiting normal"] == 0
        assert done["llm_serving_engine_requests_total finished"] == 2
        assert done["llm_serving_engine_prompt_tokens_total"] == 8
        assert done["llm_serving_engine_completion_tokens_total"] == 6
        assert done["llm_serving_engine_tenant_tokens_total prompt "] == 8
        assert done["llm_serving_engine_tenant_tokens_total completion "] == 6
        # What the second left; its last token was never computed.
        assert done["llm_serving_engine_cached_tokens"] == 3 + 1
        assert done["llm_serving_engine_preemptions_total"] == 0
        count = "gen_ai_server_time_to_first_token_seconds_count"
        assert done[f"{count} text_completion llm-serving-engine scripted"] == 2
        assert done["llm_serving_engine_step_seconds_count"] == len(server.runner.begun)


async def test_metrics_of_a_runner(tiny: RunningServer) -> None:
    shown = (await samples(tiny))["llm_serving_engine_runner_memory_bytes"]
    # The system may take pages away between the two readings.
    assert shown == pytest.approx(tiny.model.runner_memory_bytes, rel=0.2)
    assert shown > 1_000_000


async def test_without_http() -> None:
    async with gated(http={"enabled": False}) as server:
        assert server.app.http_port is None
        server.runner.open()
        assert (await server.generate()).text
