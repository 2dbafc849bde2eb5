"""What only the scheduler knows, read when metrics are read: it costs no step anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llm_serving_engine.scheduler.core import Scheduler


def _cached_tokens(scheduler: Scheduler) -> int:
    return sum(len(slot.left_over) for slot in scheduler.slots.idle())


_COUNTERS: dict[str, tuple[str, Callable[[Scheduler], float]]] = {
    "llm_serving_engine_preemptions_total": (
        "Slots that were taken from a running request for one of a higher class.",
        lambda scheduler: scheduler.tally.preemptions,
    ),
    "llm_serving_engine_prefix_hits_total": (
        "Requests that found a part of their prompt in the cache.",
        lambda scheduler: scheduler.tally.prefix_hits,
    ),
    "llm_serving_engine_moves_total": (
        "Running sequences that were moved to make decode rows dense.",
        lambda scheduler: scheduler.tally.moves,
    ),
}
_GAUGES: dict[str, tuple[str, Callable[[Scheduler], float]]] = {
    "llm_serving_engine_saved_cache_bytes": (
        "Memory of the caches of requests that lost their slots.",
        lambda scheduler: scheduler.preemption.saved_bytes,
    ),
    "llm_serving_engine_cached_tokens": (
        "Tokens that finished requests left in the caches of idle slots.",
        _cached_tokens,
    ),
}


class SchedulerCollector(Collector):
    """Reads schedulers for a registry.

    Metrics are read in a thread beside the event loop: each value here is one
    attribute, or one sum over containers that no step can come in between.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._readers: dict[str, Callable[[], Scheduler | None]] = {}
        registry.register(self)

    def watch(self, model: str, read: Callable[[], Scheduler | None]) -> None:
        """Read the scheduler of a model by `read`; None stands for not loaded yet."""
        self._readers[model] = read

    def collect(self) -> Iterable[Metric]:
        """Every metric, with a sample for each model that is loaded."""
        schedulers = {
            model: scheduler
            for model, read in self._readers.items()
            if (scheduler := read()) is not None
        }
        for kind, table in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
            for name, (documentation, value) in table.items():
                family = kind(name, documentation, labels=("model",))
                for model, scheduler in schedulers.items():
                    family.add_metric((model,), value(scheduler))
                yield family
