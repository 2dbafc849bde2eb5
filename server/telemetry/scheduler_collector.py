"""Collects the scheduler's metrics at each scrape, at no cost per step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.queue import Load

F = TypeVar("F", CounterMetricFamily, GaugeMetricFamily)


class _Limited(NamedTuple):
    """A limited resource: the used amount, and the limit."""

    name: str
    documentation: str
    use: Callable[[Scheduler], float]
    limit: Callable[[SchedulerConfig], float]


def _cached_tokens(scheduler: Scheduler) -> int:
    return sum(slot.usable for slot in scheduler.cache.slots if slot.sequence is None)


def _cache_tokens(scheduler: Scheduler) -> int:
    return sum(min(slot.usable, slot.length) for slot in scheduler.cache.slots)


def _cache_tokens_max(scheduler: Scheduler) -> int:
    can = scheduler.capabilities
    return can.slots * can.context


def _token_bytes(scheduler: Scheduler) -> int:
    return scheduler.capabilities.token_bytes


def _most_of_a_tenant(scheduler: Scheduler, count: Callable[[Load], int]) -> int:
    return max(map(count, scheduler.queue.tenants.values()), default=0)


_COUNTERS: dict[str, tuple[str, Callable[[Scheduler], float]]] = {
    "llm_serving_engine_preemptions_total": (
        "Slots that were taken from a running request for one of a higher class.",
        lambda scheduler: scheduler.totals.preemptions,
    ),
    "llm_serving_engine_prefix_hits_total": (
        "Requests that found a part of their prompt in the cache.",
        lambda scheduler: scheduler.totals.prefix_hits,
    ),
    "llm_serving_engine_moves_total": (
        "Running sequences that were moved to make decode rows dense.",
        lambda scheduler: scheduler.totals.moves,
    ),
}
_GAUGES: dict[str, tuple[str, Callable[[Scheduler], float]]] = {
    "llm_serving_engine_policy_failed": (
        "1 if the configured policy raised and was replaced by the default one; else 0.",
        lambda scheduler: bool(scheduler.policy.failure),
    ),
    "llm_serving_engine_cached_tokens": (
        "Tokens that finished requests left in the caches of idle slots.",
        _cached_tokens,
    ),
    "llm_serving_engine_cache_tokens": (
        "Tokens in the caches of all slots, of running and of finished requests.",
        _cache_tokens,
    ),
    "llm_serving_engine_cache_tokens_max": (
        "Tokens that the caches of all slots can hold.",
        _cache_tokens_max,
    ),
    "llm_serving_engine_cache_bytes": (
        "Memory of the tokens in the caches of all slots.",
        lambda scheduler: _cache_tokens(scheduler) * _token_bytes(scheduler),
    ),
    "llm_serving_engine_cache_bytes_max": (
        "Memory of the caches of all slots, which is taken when the model is loaded.",
        lambda scheduler: _cache_tokens_max(scheduler) * _token_bytes(scheduler),
    ),
}
_LIMITED = (
    _Limited(
        "llm_serving_engine_saved_cache_bytes",
        "Memory of the caches of requests that lost their slots.",
        lambda scheduler: scheduler.cache.snapshot_bytes,
        lambda config: config.snapshot_bytes_max,
    ),
    _Limited(
        "llm_serving_engine_queue_requests",
        "Requests in the queue, of all classes.",
        lambda scheduler: len(scheduler.queue),
        lambda config: config.queue_requests_max,
    ),
    _Limited(
        "llm_serving_engine_queue_tokens",
        "Tokens that the requests in the queue ask for.",
        lambda scheduler: scheduler.queue.load.tokens,
        lambda config: config.queue_tokens_max,
    ),
    _Limited(
        "llm_serving_engine_queue_tenant_requests",
        "Requests in the queue of the tenant that has the most.",
        lambda scheduler: _most_of_a_tenant(scheduler, lambda load: load.requests),
        lambda config: config.tenant_queue_share * config.queue_requests_max,
    ),
    _Limited(
        "llm_serving_engine_queue_tenant_tokens",
        "Tokens asked for in the queue by the tenant that asks for the most.",
        lambda scheduler: _most_of_a_tenant(scheduler, lambda load: load.tokens),
        lambda config: config.tenant_queue_share * config.queue_tokens_max,
    ),
)


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
        for name, (documentation, value) in _COUNTERS.items():
            values = {model: value(scheduler) for model, scheduler in schedulers.items()}
            yield _filled(CounterMetricFamily(name, documentation, labels=("model",)), values)
        for name, (documentation, value) in _GAUGES.items():
            values = {model: value(scheduler) for model, scheduler in schedulers.items()}
            yield _filled(GaugeMetricFamily(name, documentation, labels=("model",)), values)
        for limited in _LIMITED:
            yield from _use_and_limit(limited, schedulers)


def _use_and_limit(
    limited: _Limited, schedulers: Mapping[str, Scheduler]
) -> Iterator[GaugeMetricFamily]:
    used = {model: limited.use(scheduler) for model, scheduler in schedulers.items()}
    limits = {model: limited.limit(scheduler.config) for model, scheduler in schedulers.items()}
    name, documentation = limited.name, limited.documentation
    yield _filled(GaugeMetricFamily(name, documentation, labels=("model",)), used)
    name, documentation = f"{limited.name}_max", f"The limit of {limited.name}."
    yield _filled(GaugeMetricFamily(name, documentation, labels=("model",)), limits)


def _filled(family: F, values: Mapping[str, float]) -> F:
    for model, value in values.items():
        family.add_metric((model,), value)
    return family
