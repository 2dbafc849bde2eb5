"""What is taken into the queue, and what is refused, with when to try again."""

from __future__ import annotations

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.errors import DeadlinePassed, InvalidField, LimitReached
from llm_serving_engine.scheduler.queue import Load, WaitingQueue
from llm_serving_engine.scheduler.quota import TokenQuota
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.slots import SlotTable

RETRY_AFTER_MIN = 0.05
RETRY_AFTER_MAX = 60.0


class Admission:
    """Holds requests against the limits, and their deadlines against what is ahead of them."""

    def __init__(
        self, config: SchedulerConfig, queue: WaitingQueue, slots: SlotTable, cost: CostModel
    ) -> None:
        self._config = config
        self._queue = queue
        self._slots = slots
        self._cost = cost
        self._quota = TokenQuota(
            config.tenant_tokens_per_second, config.tenant_tokens_burst, config.tenants_max
        )
        # Of max_tokens, how much requests produce: learned, as few take all.
        self._used = 0.5

    def check(self, request: Request, context: int, now: float) -> None:
        """Let a request pass, and count it against its tenant's quota.

        Raises:
            InvalidField: Its prompt leaves no room in the context.
            LimitReached: A limit of the queue or the tenant's quota is reached.
            DeadlinePassed: The deadline has passed, or will before it can begin.
        """
        if len(request.prompt) >= context:
            raise InvalidField(
                "prompt",
                f"{len(request.prompt)} tokens leave no room in the context of {context}",
            )
        self._check_queue(request)
        self._check_tenant(request, now)
        self._check_deadline(request, now)
        self._quota.take(request.tenant, request.tokens, now)

    def left(self, sequence: Sequence, now: float) -> None:
        """A request has ended: learn from it, and give back what it did not use."""
        request, produced = sequence.request, len(sequence.output)
        self._quota.give(request.tenant, request.max_tokens - produced, now)
        if sequence.finish_reason is not None:
            self._used += 0.05 * (produced / request.max_tokens - self._used)

    @property
    def retry_after(self) -> float:
        """Seconds until the queue is expected to have room for one more."""
        waiting = max(len(self._queue), 1)
        return min(max(self.drain_seconds() / waiting, RETRY_AFTER_MIN), RETRY_AFTER_MAX)

    def drain_seconds(self) -> float:
        """Seconds that everything which waits and runs is expected to take."""
        waiting = map(self._queue.of_class, Priority)
        return sum(map(self._work_of, waiting)) + self._work_of_running()

    def wait_seconds(self, priority: int) -> float:
        """Seconds until a new request of a class is expected to get a slot, rather too few.

        Those who wait before it must be done, but for as many as can still run
        beside it; of those who run, the first must be done.
        """
        if self._slots.idle():
            return 0.0
        slots = len(self._slots)
        ahead = [self._queue.of_class(above) for above in Priority if above >= priority]
        requests = sum(load.requests for load in ahead)
        done_before = max(requests - slots + 1, 0) / max(requests, 1)
        waiting = sum(map(self._work_of, ahead)) * done_before
        return waiting + self._work_of_running() / slots

    def _work_of(self, load: Load) -> float:
        """Seconds of the runner's time that those who wait are expected to take.

        By their sums, not one by one: this is asked for every refusal, when the
        queue is at its longest.
        """
        if not load.requests:
            return 0.0
        prompt = load.prompt_tokens // load.requests
        prefill = load.requests * self._cost.prefill_seconds(prompt)
        return prefill + self._used * (load.tokens - load.prompt_tokens) * self._row_seconds()

    def _work_of_running(self) -> float:
        row_seconds = self._row_seconds()
        return sum(
            self._cost.prefill_seconds(s.known_tokens - s.computed, s.computed)
            + self._used * (s.request.max_tokens - len(s.output)) * row_seconds
            for s in self._slots.holders()
        )

    def _row_seconds(self) -> float:
        """Seconds of the runner's time for one token of output, with all slots at work."""
        slots = len(self._slots)
        return self._cost.decode_seconds(slots) / slots

    def _check_queue(self, request: Request) -> None:
        config, queue = self._config, self._queue
        if len(queue) >= config.queue_requests_max:
            self._refuse("queue.requests", f"{config.queue_requests_max} requests wait")
        if queue.tokens + request.tokens > config.queue_tokens_max:
            self._refuse(
                "queue.tokens",
                f"the requests that wait may take {queue.tokens} tokens, "
                f"this one {request.tokens}, and the limit is {config.queue_tokens_max}",
            )

    def _check_tenant(self, request: Request, now: float) -> None:
        config, load = self._config, self._queue.of_tenant(request.tenant)
        if load.requests >= config.queue_requests_per_tenant_max:
            self._refuse("tenant.queue.requests", f"{load.requests} requests of this tenant wait")
        if load.tokens + request.tokens > config.queue_tokens_per_tenant_max:
            self._refuse(
                "tenant.queue.tokens",
                f"this tenant's requests that wait may take {load.tokens} tokens, "
                f"this one {request.tokens}, and the limit is "
                f"{config.queue_tokens_per_tenant_max}",
            )
        missing = self._quota.missing_seconds(request.tenant, request.tokens, now)
        if missing:
            raise LimitReached(
                "tenant.tokens",
                f"the tenant's quota of {config.tenant_tokens_per_second:g} tokens a second "
                f"is spent; this request asks for {request.tokens}",
                max(missing, RETRY_AFTER_MIN),
            )

    def _refuse(self, subject: str, description: str) -> None:
        raise LimitReached(subject, f"the queue is full: {description}", self.retry_after)

    def _check_deadline(self, request: Request, now: float) -> None:
        if request.deadline is None:
            return
        remaining = request.deadline - now
        if remaining <= 0:
            raise DeadlinePassed(
                DeadlinePassed.DEADLINE_UNREACHABLE, "the deadline had passed on arrival"
            )
        needed = self._cost.prefill_seconds(len(request.prompt))
        needed += self.wait_seconds(request.priority)
        if needed > remaining:
            raise DeadlinePassed(
                DeadlinePassed.DEADLINE_UNREACHABLE,
                f"the first token is expected in {needed:.3g} s, the deadline is in "
                f"{remaining:.3g} s",
            )
