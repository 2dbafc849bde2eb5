"""What is taken into the queue, and what is refused, with when to try again.

A deadline is for the whole answer. A request is taken where its answer is expected
in time: its wait, its own prompt, and its output at the rate that its slot will
have. The same is asked again when it gets a slot, and of what runs while others
wait, so capacity is not spent on answers that will come too late.
"""

from __future__ import annotations

from collections.abc import Hashable

from llm_serving_engine.scheduler.cache import Cache
from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.errors import DeadlinePassed, InvalidField, LimitReached
from llm_serving_engine.scheduler.queue import Load, WaitingQueue
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.slots import Outlook
from llm_serving_engine.scheduler.step import Capabilities

RETRY_AFTER_MIN = 0.05
RETRY_AFTER_MAX = 60.0
# What an answer may take longer than expected: the wait at the door, what is
# expected of a request when it gets a slot, and what runs before it is given up.
WAIT_MARGIN, OWN_MARGIN, RUNNING_MARGIN = 1.1, 1.1, 0.8
# How much of a mean the newest value says.
RATE = 0.05
# A tenant's own mean counts from so many finished requests on.
TENANT_FINISHED_MIN = 8
TENANTS_MAX = 1000


class OutputShare:
    """How much of `max_tokens` requests produce: learned, as few take all."""

    def __init__(self) -> None:
        self._mean = 0.5
        self._tenants: dict[str, tuple[int, float]] = {}

    def learn(self, sequence: Sequence) -> None:
        """Take in what a finished request produced."""
        request = sequence.request
        share = len(sequence.output) / request.max_tokens
        self._mean += RATE * (share - self._mean)
        count, mean = self._tenants.pop(request.tenant, (0, 0.0))
        count += 1
        # The first ones are averaged, later ones replace the oldest little by little.
        mean += max(RATE, 1 / count) * (share - mean)
        self._tenants[request.tenant] = count, mean
        if len(self._tenants) > TENANTS_MAX:
            del self._tenants[next(iter(self._tenants))]

    def of(self, tenant: str) -> float:
        """What is expected of a tenant's requests."""
        count, mean = self._tenants.get(tenant, (0, 0.0))
        return mean if count >= TENANT_FINISHED_MIN else self._mean


class Admission:
    """Holds requests against the limits and against their deadlines."""

    def __init__(
        self,
        capabilities: Capabilities,
        config: SchedulerConfig,
        queue: WaitingQueue,
        cache: Cache,
        cost: CostModel,
        target: float,
    ) -> None:
        self._can = capabilities
        self._config = config
        self._queue = queue
        self._cache = cache
        self._cost = cost
        self._cost_at_load = CostModel.of(capabilities)
        self._target = target
        self._share = OutputShare()
        # Seconds between two tokens of a stream, as they were lately.
        self._pace = cost.rows_seconds(capabilities.slots)

    # What is learned

    def finished(self, sequence: Sequence) -> None:
        """Take in what a finished request produced."""
        self._share.learn(sequence)

    def paced(self, seconds: float) -> None:
        """Take in the time between two tokens of a stream."""
        self._pace += RATE * (seconds - self._pace)

    # At the door

    def check(self, sequence: Sequence, line: Hashable, now: float) -> Sequence | None:
        """Let a request pass; the waiting request that it displaces, if any.

        Raises:
            InvalidField: Its prompt leaves no room in the context.
            LimitReached: The queue is full, or the tenant's share of it.
            DeadlinePassed: The answer cannot be expected in time.
        """
        request, context = sequence.request, self._can.context
        if len(request.prompt) >= context:
            raise InvalidField(
                "prompt",
                f"{len(request.prompt)} tokens leave no room in the context of {context}",
            )
        displaced = self._check_limits(request)
        if request.deadline is not None:
            self._check_deadline(sequence, line, now)
        return displaced

    def _check_limits(self, request: Request) -> Sequence | None:
        """The request that gives its place in the queue, where there is no other one.

        It is of a lower class. Where the tenant's share is full, it is of that tenant.
        """
        config, share = self._config, self._config.tenant_queue_share
        own = self._queue.of_tenant(request.tenant)
        own_requests = max(int(share * config.queue_requests_max), 1)
        limits = (
            ("tenant.queue.requests", own.requests + 1, own_requests),
            ("tenant.queue.tokens", own.tokens + request.tokens, share * config.queue_tokens_max),
            ("queue.requests", len(self._queue) + 1, config.queue_requests_max),
            ("queue.tokens", self._queue.tokens + request.tokens, config.queue_tokens_max),
        )
        over = [(subject, now, most) for subject, now, most in limits if now > most]
        if not over:
            return None
        subject, now, most = over[-1]
        tenant = request.tenant if over[0][0].startswith("tenant") else None
        displaced = self._queue.displaceable(request.priority, tenant)
        tokens = max(
            now - most for name, now, most in (*over, ("tokens", 0, 0)) if "tokens" in name
        )
        if displaced is not None and displaced.request.tokens >= tokens:
            return displaced
        whose = "this tenant's part of the queue" if "tenant" in subject else "the queue"
        unit = subject.rpartition(".")[2]
        description = f"{whose} is full: with this request, {now:g} {unit} would wait, of {most:g}"
        raise LimitReached(subject, description, self.retry_after)

    def _check_deadline(self, sequence: Sequence, line: Hashable, now: float) -> None:
        assert sequence.request.deadline is not None
        remaining = sequence.request.deadline - now
        if remaining <= 0:
            reason = DeadlinePassed.DEADLINE_UNREACHABLE
            raise DeadlinePassed(reason, "the deadline had passed on arrival")
        outlook = Outlook(self._cache.slots, ())
        wait = self.wait_seconds(sequence, line)
        own = self._own_seconds(sequence, outlook)
        needed = WAIT_MARGIN * wait + OWN_MARGIN * own if wait else own
        if needed > remaining:
            raise self.unreachable(needed, remaining)

    def displaced(self) -> LimitReached:
        """The error of a request that a higher class displaced from the full queue."""
        description = "the queue is full, and a request of a higher class took this one's place"
        return LimitReached("queue.requests", description, self.retry_after)

    def unreachable(self, needed: float, remaining: float) -> DeadlinePassed:
        """The error of a request whose answer would come too late."""
        return DeadlinePassed(
            DeadlinePassed.DEADLINE_UNREACHABLE,
            f"the answer is expected in {needed:.3g} s, the deadline is in {remaining:.3g} s",
            _bounded(needed - remaining),
        )

    @property
    def retry_after(self) -> float:
        """Seconds until the queue is expected to have room for one more."""
        loads = [self._queue.of_class(priority) for priority in Priority]
        requests = sum(load.requests for load in loads)
        seconds = sum(load.requests * self._mean_seconds(load) for load in loads)
        return _bounded(seconds / max(requests, 1) / self._can.slots)

    # When it gets a slot, and while it runs

    def too_late(self, sequence: Sequence, outlook: Outlook, now: float) -> DeadlinePassed | None:
        """The error of a request that would get a slot too late for its answer."""
        if sequence.request.deadline is None:
            return None
        remaining = sequence.request.deadline - now
        needed = self._own_seconds(sequence, outlook)
        return self.unreachable(needed, remaining) if needed > remaining else None

    def hopeless(self, sequence: Sequence, outlook: Outlook, now: float) -> bool:
        """Whether what runs cannot be expected to end in time, even if it is fast."""
        deadline = sequence.request.deadline
        if deadline is None:
            return False
        return RUNNING_MARGIN * self._rest_seconds(sequence, outlook) > deadline - now

    # What is expected

    def wait_seconds(self, sequence: Sequence, line: Hashable) -> float:
        """Seconds until a new request is expected to get a slot.

        It waits for what it does not preempt or overtake: slots of its class and of
        higher ones, and requests that are served before it. They take the slots in turn.
        """
        priority = sequence.request.priority
        outlook = Outlook(self._cache.slots, ())
        running = [s for s in self._cache.holders() if s.request.priority >= priority]
        free = [0.0] * (self._can.slots - len(running))
        free += sorted(self._rest_seconds(one, outlook) for one in running)
        higher = [self._queue.of_class(other) for other in Priority if other > priority]
        mine = self._queue.ahead(line, priority)
        ahead = sum(load.requests for load in higher) + mine
        if not ahead:
            return free[0]
        seconds = sum(load.requests * self._mean_seconds(load) for load in higher)
        seconds += mine * self._mean_seconds(self._queue.of_class(priority))
        return free[ahead % len(free)] + ahead // len(free) * seconds / ahead

    def _mean_seconds(self, load: Load) -> float:
        """Seconds that a request of a load is expected to hold a slot."""
        if not load.requests:
            return 0.0
        prompt = load.prompt_tokens // load.requests
        output = self._share.of("") * (load.tokens - load.prompt_tokens) / load.requests
        return self._prefill_seconds(self._cost, 0, prompt) + output * self._pace

    def _rest_seconds(self, sequence: Sequence, outlook: Outlook) -> float:
        """Seconds until a running request is expected to end."""
        assert sequence.slot is not None
        position, produced = outlook.position(sequence.slot), len(sequence.output)
        prefill = self._prefill_seconds(self._cost, position, sequence.known_tokens)
        return prefill + max(self._output_tokens(sequence.request) - produced, 1) * self._pace

    def _own_seconds(self, sequence: Sequence, outlook: Outlook) -> float:
        """Seconds from a slot to the end of the answer.

        On a server with nothing else to do, by the lower of learned and load-time
        costs: what was learned in a slow spell must not refuse for ever.
        """
        match = self._cache.match(sequence, outlook)
        cached = match[1] if match else 0
        known, tokens = sequence.known_tokens, self._output_tokens(sequence.request)
        tokens = max(tokens - len(sequence.output), 1)
        if self._cache.in_use:
            return self._prefill_seconds(self._cost, cached, known) + tokens * self._busy_pace()
        return min(
            cost.prefill_seconds(cached, known, self._can.chunk) + tokens * cost.rows_seconds(1)
            for cost in (self._cost, self._cost_at_load)
        )

    def _busy_pace(self) -> float:
        """Seconds between two tokens, for one more request beside those that run."""
        if len(self._queue) or not self._cache.idle():
            return self._pace
        return min(self._cost.rows_seconds(self._cache.in_use + 1), self._pace)

    def _output_tokens(self, request: Request) -> float:
        return self._share.of(request.tenant) * request.max_tokens

    def _prefill_seconds(self, cost: CostModel, start: int, end: int) -> float:
        """Seconds to compute a prompt, with a rows step of the others after each chunk."""
        seconds = cost.prefill_seconds(start, end, self._can.chunk)
        rows = cost.rows_seconds(max(self._cache.in_use, 1))
        return seconds * (1 + rows / self._target)


def _bounded(seconds: float) -> float:
    return min(max(seconds, RETRY_AFTER_MIN), RETRY_AFTER_MAX)
