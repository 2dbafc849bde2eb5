"""The default: strict classes with aging, tenants share fairly inside a class."""

from __future__ import annotations

from collections.abc import Hashable

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.fairness import ServiceCounters
from llm_serving_engine.scheduler.policy import Key, Policy
from llm_serving_engine.scheduler.sequence import Sequence


class FairPolicy(Policy):
    """Class first; in a class who lost a slot; then the tenant that was served least.

    A request rises by one level for each `aging_seconds` that it is alive, and
    goes on rising past the highest class. So nobody who comes more than
    `p' - p + 1` ages later overtakes it, where p is its class and p' theirs:
    with four classes, a LOW request waits for no one who comes more than four
    ages after it.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        super().__init__(config)
        self.counters = ServiceCounters(config.tenants_max)

    def key(self, sequence: Sequence, now: float) -> Key:
        """Level, having run before, the tenant's service so far, arrival."""
        service = self.counters.of(sequence.request.tenant)
        ran_before = 0 if sequence.preemptions else 1
        return (-self.level(sequence, now), ran_before, service, sequence.arrived_at)

    def line(self, sequence: Sequence) -> Hashable:
        """Those of a class and a tenant, and apart from them those who ran before."""
        request = sequence.request
        return (request.priority, request.tenant, sequence.preemptions > 0)

    def prefill_key(self, sequence: Sequence, now: float) -> Key:
        """Level, the tenant's service so far, then the shortest rest."""
        service = self.counters.of(sequence.request.tenant)
        rest = sequence.known_tokens - sequence.computed
        return (-self.level(sequence, now), service, rest, sequence.arrived_at)

    def preempts(self, waiting: Sequence, running: Sequence, now: float) -> bool:
        """If its class is higher, and age has not raised the other one above it."""
        above = self.level(waiting, now) > self.level(running, now)
        return above and super().preempts(waiting, running, now)

    def level(self, sequence: Sequence, now: float) -> int:
        """The class, raised by age."""
        ages = (now - sequence.arrived_at) // self.config.aging_seconds
        return int(sequence.request.priority + max(ages, 0.0))

    def submitted(self, sequence: Sequence) -> None:
        """Lift a tenant that comes back from idle."""
        self.counters.arrive(sequence.request.tenant)

    def served(self, sequence: Sequence, prompt_tokens: int, output_tokens: int) -> None:
        """Charge the tenant."""
        config = self.config
        service = (
            config.prompt_token_weight * prompt_tokens + config.output_token_weight * output_tokens
        )
        self.counters.charge(sequence.request.tenant, service)

    def left(self, sequence: Sequence) -> None:
        """The tenant may be idle now."""
        self.counters.leave(sequence.request.tenant)

    def service(self) -> dict[str, float]:
        """The counters of the tenants that have live requests."""
        return self.counters.active()
