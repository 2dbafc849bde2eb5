"""Counts tokens by tenant as plain numbers, which each scrape reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

TENANTS_MAX = 100
OTHER = "other"


@dataclass(slots=True)
class TenantCounters:
    """The counters of one label."""

    prompt: int = 0
    completion: int = 0


class ModelTenants:
    """The tenants of one model; later ones share a label, so that labels stay bounded."""

    def __init__(self, tenants_max: int = TENANTS_MAX) -> None:
        self._tenants_max = tenants_max
        self._tokens: dict[str, TenantCounters] = {}

    def of(self, tenant: str) -> TenantCounters:
        """Return a tenant's counters."""
        if tenant not in self._tokens and len(self._tokens) >= self._tenants_max:
            tenant = OTHER
        return self._tokens.setdefault(tenant, TenantCounters())

    def read(self) -> list[tuple[str, TenantCounters]]:
        """Each label's. For any thread."""
        return list(self._tokens.items())


class TenantCollector(Collector):
    """Shows all models' tenants in a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._models: dict[str, ModelTenants] = {}
        registry.register(self)

    def of(self, model: str) -> ModelTenants:
        """The tenants of a model."""
        return self._models.setdefault(model, ModelTenants())

    def collect(self) -> Iterable[Metric]:
        """One metric, with two samples for each tenant of each model."""
        family = CounterMetricFamily(
            "llm_serving_engine_tenant_tokens_total",
            "Prompt tokens, once a prompt is computed, and tokens produced, by tenant.",
            labels=("model", "tenant", "kind"),
        )
        for model, tenants in list(self._models.items()):
            for tenant, tokens in tenants.read():
                family.add_metric((model, tenant, "prompt"), tokens.prompt)
                family.add_metric((model, tenant, "completion"), tokens.completion)
        yield family
