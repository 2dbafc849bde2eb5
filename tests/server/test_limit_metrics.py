"""How much of each limit is used, and what became of runners."""

from __future__ import annotations

import os

import psutil
import pytest
from stepping import run_step

from llm_serving_engine.backends.process.runner_loss import LossReason
from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.step import Capabilities
from llm_serving_engine.server.telemetry.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"llm_serving_engine_{name}", {"model": "m", **labels})


def use_and_limit(metrics: Metrics, name: str) -> tuple[float | None, float | None]:
    return value(metrics, name), value(metrics, f"{name}_max")


def test_the_queue(metrics: Metrics) -> None:
    config = SchedulerConfig(queue_requests_max=9, queue_tokens_max=1000, tenant_queue_share=0.5)
    scheduler = Scheduler(Capabilities(1, 64), config)
    metrics.watch_scheduler("m", lambda: scheduler)
    assert use_and_limit(metrics, "queue_requests") == (0, 9)
    for number, tenant in enumerate("aab"):
        scheduler.submit(Request(str(number), (1, 2, 3), max_tokens=10, tenant=tenant), 0.0)
    assert use_and_limit(metrics, "queue_requests") == (3, 9)
    assert use_and_limit(metrics, "queue_tokens") == (39, 1000)
    assert use_and_limit(metrics, "queue_tenant_requests") == (2, 4.5)
    assert use_and_limit(metrics, "queue_tenant_tokens") == (26, 500)


def test_the_cache(metrics: Metrics) -> None:
    scheduler = Scheduler(Capabilities(2, 64, token_bytes=10))
    metrics.watch_scheduler("m", lambda: scheduler)
    scheduler.submit(Request("a", (1, 2, 3), max_tokens=10), 0.0)
    run_step(scheduler)
    scheduler.cache.slots[1].usable = scheduler.cache.slots[1].length = 4
    assert use_and_limit(metrics, "cache_tokens") == (7, 128)
    assert use_and_limit(metrics, "cache_bytes") == (70, 1280)
    assert value(metrics, "saved_cache_bytes_max") == SchedulerConfig().snapshot_bytes_max


def test_slow_readers(metrics: Metrics) -> None:
    metrics.processes.watch_streams("m", lambda: 12, limit=100)
    assert use_and_limit(metrics, "stream_buffer_tokens") == (12, 100)


def test_processes(metrics: Metrics) -> None:
    metrics.processes.watch_memory("m", lambda: 50, limit=None)
    assert use_and_limit(metrics, "runner_memory_bytes") == (50, 0)
    metrics.processes.watch_memory("m", lambda: 50, limit=70)
    assert use_and_limit(metrics, "runner_memory_bytes") == (50, 70)
    resident = metrics.registry.get_sample_value("llm_serving_engine_server_memory_bytes")
    assert resident == pytest.approx(psutil.Process(os.getpid()).memory_info().rss, rel=0.2)


def test_losses_are_there_before_there_are_any(metrics: Metrics) -> None:
    metrics.processes.watch_memory("m", lambda: 0)
    assert {value(metrics, "runner_losses_total", loss=one.value) for one in LossReason} == {0}
    metrics.processes.lost("m", LossReason.HUNG)
    assert value(metrics, "runner_losses_total", loss="hung") == 1
    assert value(metrics, "runner_losses_total", loss="killed") == 0
