"""Tokens by tenant: who gets a label of its own, as labels must not grow without a limit."""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client import Counter

TENANTS_MAX = 100
OTHER = "other"


class TenantTokens(NamedTuple):
    """The counters of one label."""

    prompt: Counter
    completion: Counter


class TenantCounters:
    """The counters of one model's tenants; those that come late share one label."""

    def __init__(self, counter: Counter, model: str, tenants_max: int = TENANTS_MAX) -> None:
        """Count in `counter`, whose labels are model, tenant, kind."""
        self._counter = counter
        self._model = model
        self._tenants_max = tenants_max
        self._tenants: dict[str, TenantTokens] = {}
        self._other: TenantTokens | None = None

    def of(self, tenant: str) -> TenantTokens:
        """The counters for a tenant."""
        known = self._tenants.get(tenant)
        if known is not None:
            return known
        if len(self._tenants) < self._tenants_max:
            self._tenants[tenant] = self._labelled(tenant)
            return self._tenants[tenant]
        if self._other is None:
            self._other = self._labelled(OTHER)
        return self._other

    def _labelled(self, tenant: str) -> TenantTokens:
        return TenantTokens(
            self._counter.labels(self._model, tenant, "prompt"),
            self._counter.labels(self._model, tenant, "completion"),
        )
