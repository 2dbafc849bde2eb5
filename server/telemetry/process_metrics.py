"""Metrics of processes: their memory, and lost runners."""

from __future__ import annotations

from collections.abc import Callable

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge

from llm_serving_engine.backends.process.runner_loss import LossReason


class ProcessMetrics:
    """Reads process metrics at each scrape. Register it once per server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._losses = Counter(
            "llm_serving_engine_runner_losses_total",
            "Runners that were lost, and attempts to replace one that failed.",
            ("model", "loss"),
            registry=registry,
        )
        self._memory = Gauge(
            "llm_serving_engine_runner_memory_bytes",
            "The runner's resident memory.",
            ("model",),
            registry=registry,
        )
        self._memory_max = Gauge(
            "llm_serving_engine_runner_memory_bytes_max",
            "What the runner may take; 0 for no limit.",
            ("model",),
            registry=registry,
        )
        self._buffer = Gauge(
            "llm_serving_engine_stream_buffer_tokens",
            "Tokens that wait for the caller who is furthest behind.",
            ("model",),
            registry=registry,
        )
        self._buffer_max = Gauge(
            "llm_serving_engine_stream_buffer_tokens_max",
            "How far a caller may be behind.",
            ("model",),
            registry=registry,
        )
        # The library tells this too, but on Linux alone.
        Gauge(
            "llm_serving_engine_server_memory_bytes",
            "The server's resident memory, runners aside.",
            registry=registry,
        ).set_function(lambda: psutil.Process().memory_info().rss)

    def watch_memory(self, model: str, read: Callable[[], float], limit: int | None = None) -> None:
        """Set the function that reads a runner's resident memory in bytes.

        Args:
            model: The model's name.
            read: Quick, and does not raise; 0 stands for no runner.
            limit: What the runner may take; None for no limit.
        """
        self._memory.labels(model).set_function(read)
        self._memory_max.labels(model).set(limit or 0)
        for reason in LossReason:
            self._losses.labels(model, reason.value)

    def watch_streams(self, model: str, read: Callable[[], float], limit: int) -> None:
        """Have `read` tell how many tokens wait for the caller who is furthest behind."""
        self._buffer.labels(model).set_function(read)
        self._buffer_max.labels(model).set(limit)

    def lost(self, model: str, reason: LossReason) -> None:
        """Count a runner that was lost, or that could not be started."""
        self._losses.labels(model, reason.value).inc()
