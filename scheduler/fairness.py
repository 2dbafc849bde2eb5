"""Virtual token counters: how much service each tenant has had.

Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): serve
the tenant whose counter is the least, charge it for what it gets, and lift the
counter of one that comes back from idle to the least of those that are active.
Then two tenants that both wait all the time get the same, up to a constant:
2 max(w_p L, w_q M), where L is the longest prompt and M the tokens that a full
batch holds, weighted as they are charged.
"""

from __future__ import annotations

# Tenants whose service is remembered. Beyond, those that were served least are forgotten.
TENANTS_MAX = 10_000


class ServiceCounters:
    """One counter per tenant that matters: the active ones, and idle ones still ahead."""

    def __init__(self, tenants_max: int = TENANTS_MAX) -> None:
        self._tenants_max = tenants_max
        self._service: dict[str, float] = {}
        self._alive: dict[str, int] = {}
        self._last_left = 0.0

    def __len__(self) -> int:
        return len(self._service)

    def of(self, tenant: str) -> float:
        """What a tenant has had; comparable between tenants, with no meaning of its own."""
        return self._service.get(tenant, 0.0)

    def active(self) -> dict[str, float]:
        """The counters of the tenants that have live requests."""
        return {tenant: self._service[tenant] for tenant in self._alive}

    def arrive(self, tenant: str) -> None:
        """Take in a new request. A tenant that returns from idle starts at the lowest counter."""
        if tenant not in self._alive:
            floor = min(self.active().values(), default=self._last_left)
            self._service[tenant] = max(self._service.get(tenant, floor), floor)
        self._alive[tenant] = self._alive.get(tenant, 0) + 1

    def charge(self, tenant: str, service: float) -> None:
        """Take in what the tenant was served; below 0 it is given back."""
        self._service[tenant] = self._service.get(tenant, 0.0) + service

    def leave(self, tenant: str) -> None:
        """Take in that a request of the tenant has ended."""
        self._alive[tenant] -= 1
        if not self._alive[tenant]:
            del self._alive[tenant]
            self._last_left = self._service[tenant]
            self._forget()

    def _forget(self) -> None:
        """Drop the idle tenants that an arrival would lift anyway, and those beyond the limit."""
        floor = min(self.active().values(), default=self._last_left)
        idle = sorted(
            (s, tenant) for tenant, s in self._service.items() if tenant not in self._alive
        )
        beyond = len(self._service) - self._tenants_max
        for place, (service, tenant) in enumerate(idle):
            if service <= floor or place < beyond:
                del self._service[tenant]
