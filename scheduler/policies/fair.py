"""The default: tenants share fairly inside a class, by virtual token counters.

Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): serve the tenant
whose counter is the least, charge it for what it gets, and lift the counter of one that
comes back from idle to the least of those that are active. Then two tenants that both
wait all the time get the same, up to a constant: 2 max(w_p L, w_q M), where L is the
longest prompt and M the tokens that a full batch holds, weighted as they are charged.
Unlike theirs, counters start anew when no tenant is active, as in fair queueing of packets:
what one tenant got more than another in an earlier busy period kept nobody waiting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.policy import Key, Policy
from llm_serving_engine.scheduler.sequence import Sequence

# What a token counts for in a tenant's service: a token of output takes a step of its own.
PROMPT_TOKEN_WEIGHT = 1.0
OUTPUT_TOKEN_WEIGHT = 2.0
# Tenants whose service is remembered. Beyond, those that were served least are forgotten.
TENANTS_MAX = 10_000


class FairPolicy(Policy):
    """First what has run before, then the tenant that was served least, then arrival."""

    def __init__(self, config: SchedulerConfig, tenants_max: int = TENANTS_MAX) -> None:
        super().__init__(config)
        self._tenants_max = tenants_max
        # The counters of the active tenants, and of idle ones that are still ahead.
        self._service: dict[str, float] = {}
        self._live: Counter[str] = Counter()

    def key(self, sequence: Sequence, now: float) -> Key:
        """Having run before, the tenant's service so far, arrival."""
        service = self._service[sequence.request.tenant]
        return (not sequence.has_run, service, sequence.arrived_at)

    def line(self, sequence: Sequence) -> Hashable:
        """Those of a class and a tenant, and apart from them those that ran before."""
        request = sequence.request
        return (request.priority, request.tenant, sequence.has_run)

    def submitted(self, sequence: Sequence) -> None:
        """Lift a tenant that returns from idle to the lowest active counter."""
        tenant, floor = sequence.request.tenant, self._floor()
        if tenant not in self._live:
            self._service[tenant] = max(self._service.get(tenant, floor), floor)
        self._live[tenant] += 1

    def served(self, sequence: Sequence, prompt_tokens: int, output_tokens: int) -> None:
        """Charge the tenant."""
        service = PROMPT_TOKEN_WEIGHT * prompt_tokens + OUTPUT_TOKEN_WEIGHT * output_tokens
        self._service[sequence.request.tenant] += service

    def left(self, sequence: Sequence) -> None:
        """Let the tenant be idle with its last request."""
        tenant = sequence.request.tenant
        self._live[tenant] -= 1
        if not self._live[tenant]:
            del self._live[tenant]
            if self._live:
                self._forget()
            else:
                self._service.clear()

    def service(self) -> dict[str, float]:
        """The counters of the tenants that have live requests."""
        return {tenant: self._service[tenant] for tenant in self._live}

    def _floor(self) -> float:
        return min(self.service().values(), default=0.0)

    def _forget(self) -> None:
        """Drop the idle tenants that an arrival would lift anyway, and those beyond the limit."""
        floor, beyond = self._floor(), len(self._service) - self._tenants_max
        idle = sorted(
            (s, tenant) for tenant, s in self._service.items() if tenant not in self._live
        )
        for place, (service, tenant) in enumerate(idle):
            if service <= floor or place < beyond:
                del self._service[tenant]
