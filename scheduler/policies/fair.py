"""The default: tenants share fairly inside a class."""

from __future__ import annotations

from collections.abc import Hashable

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.fairness import ServiceCounters
from llm_serving_engine.scheduler.policy import Key, Policy
from llm_serving_engine.scheduler.sequence import Sequence

# What a token counts for in a tenant's service: a token of output takes a step of its own.
PROMPT_TOKEN_WEIGHT = 1.0
OUTPUT_TOKEN_WEIGHT = 2.0


class FairPolicy(Policy):
    """First what has run before, then the tenant that was served least, then arrival."""

    def __init__(self, config: SchedulerConfig) -> None:
        super().__init__(config)
        self.counters = ServiceCounters()

    def key(self, sequence: Sequence, now: float) -> Key:
        """Having run before, the tenant's service so far, arrival."""
        service = self.counters.of(sequence.request.tenant)
        return (not sequence.has_run, service, sequence.arrived_at)

    def line(self, sequence: Sequence) -> Hashable:
        """Those of a class and a tenant, and apart from them those that ran before."""
        request = sequence.request
        return (request.priority, request.tenant, sequence.has_run)

    def submitted(self, sequence: Sequence) -> None:
        """Lift a tenant that comes back from idle."""
        self.counters.arrive(sequence.request.tenant)

    def served(self, sequence: Sequence, prompt_tokens: int, output_tokens: int) -> None:
        """Charge the tenant."""
        service = PROMPT_TOKEN_WEIGHT * prompt_tokens + OUTPUT_TOKEN_WEIGHT * output_tokens
        self.counters.charge(sequence.request.tenant, service)

    def left(self, sequence: Sequence) -> None:
        """The tenant may be idle now."""
        self.counters.leave(sequence.request.tenant)

    def service(self) -> dict[str, float]:
        """The counters of the tenants that have live requests."""
        return self.counters.active()
