"""What is taken into the queue, and what is refused, with when to try again.

A deadline is for the whole answer. Requests that run share the runner: with n of them,
each computes its prompt n times as slowly, and gets a token for each step of n rows.
So where deadlines are short, fewer run at once, and the others are held back. A request
is taken where its answer is expected in time: the wait for what goes before, then its
own share of the runner. What could not be in time even alone is ended, waiting or running
while others wait: capacity is not spent on late answers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.durations import duration
from llm_serving_engine.scheduler.errors import DeadlinePassed, InvalidField, LimitReached
from llm_serving_engine.scheduler.part import Common, Part
from llm_serving_engine.scheduler.queue import Load
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence

RETRY_AFTER_MIN = 0.05
RETRY_AFTER_MAX = 600.0
# What an answer may take longer than expected. The mean goodput of mixed sizes under overload
# (tests/benchmarks/scheduler_constants.py) is 0.86, and 0.60 where outputs end early; with 1.15
# it is 0.84 and 0.58, with 1.5 0.85 and 0.60.
MARGIN = 1.3
# What the wait before it may take longer: the machine may become slower meanwhile. Live, with
# deadlines of 30 s at 2.6 and 5.1 times the capacity, 280 of 287 and 239 of 245 tokens/s are in
# time with 1.0, 274 of 274 and 262 of 263 with this. Simulated at constant costs, the mean goodput
# is 0.98 to 1.01 of that with 1.0.
WAIT_MARGIN = 1.15
# Seconds that a refused request is promised for each second that it takes, as newcomers
# come too. Simulated at 2 and 4 times the capacity, for a moment and for 20 s, the part of
# retries in time, at the least: with 3.0 0.86, with 2.0 0.75 (tests/scheduler/test_goodput.py).
PROMISE_SPREAD = 3.0
# How much of a mean the newest value says: 0.03 and 0.3 give the same goodput where outputs
# end early.
RATE = 0.1
TENANTS_MAX = 1000


class Work(NamedTuple):
    """What is left to compute of a request: the prompt from `start` to `end`, and output."""

    start: int
    end: int
    output: float


class Share(NamedTuple):
    """What requests produce of their `max_tokens`: the mean, and the mean of the squares.

    It is half of them until requests have ended. Simulated for 15 s from then on, with 5 s for
    each answer, the goodput is 0.95 and 1.01; with a quarter 0.78 and 0.80, as answers are late,
    and with all of them 0.91 and 0.91.
    """

    mean: float = 0.5
    square: float = 0.25

    def learned(self, share: float) -> Share:
        """With what one more request produced."""
        mean, square = self.mean, self.square
        return Share(mean + RATE * (share - mean), square + RATE * (share**2 - square))

    @property
    def expected(self) -> float:
        """The mean and a standard deviation: an answer that is longer than expected is late."""
        return min(self.mean + math.sqrt(max(self.square - self.mean**2, 0.0)), 1.0)


class OutputShare:
    """How much of `max_tokens` requests produce: learned, as few take all."""

    def __init__(self) -> None:
        self._all = Share()
        self._tenants: dict[str, Share] = {}

    def learn(self, tenant: str, share: float) -> None:
        """Take in what a request produced, as a part of its `max_tokens`."""
        self._keep(tenant, self._of(tenant).learned(share))
        self._all = self._all.learned(share)

    def doubt(self, tenant: str) -> None:
        """Expect less of a tenant whose requests are refused unseen: answers may be short."""
        mean, square = self._of(tenant)
        self._keep(tenant, Share(mean * (1 - RATE), square * (1 - RATE) ** 2))

    def expected(self, tenant: str) -> float:
        """What is expected of a tenant's requests."""
        return self._of(tenant).expected

    def _of(self, tenant: str) -> Share:
        return self._tenants.get(tenant, self._all)

    def _keep(self, tenant: str, share: Share) -> None:
        self._tenants.pop(tenant, None)
        self._tenants[tenant] = share
        if len(self._tenants) > TENANTS_MAX:
            del self._tenants[next(iter(self._tenants))]


class Admission(Part):
    """Holds requests against the limits and against their deadlines."""

    def __init__(self, common: Common) -> None:
        super().__init__(common)
        self._cost_at_load = CostModel(self._can.speeds)
        self._share = OutputShare()
        # Until when capacity is promised to those that were told to try again, by class.
        self._promised = dict.fromkeys(Priority, 0.0)

    # What is learned

    def ended(self, sequence: Sequence) -> None:
        """Take in what a request produced: if it did not finish, at least that."""
        tenant = sequence.request.tenant
        share = len(sequence.output) / sequence.request.max_tokens
        if sequence.finish_reason is not None or share > self._share.expected(tenant):
            self._share.learn(tenant, share)

    # At the door

    def check(self, sequence: Sequence, now: float) -> Sequence | None:
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
        displaced = self._check_limits(request, now)
        if request.deadline < math.inf:
            self._check_deadline(sequence, now)
        return displaced

    def _check_limits(self, request: Request, now: float) -> Sequence | None:
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
            ("queue.tokens", self._queue.load.tokens + request.tokens, config.queue_tokens_max),
        )
        over = [(subject, count, most) for subject, count, most in limits if count > most]
        if not over:
            return None
        subject, count, most = over[-1]
        tenant = request.tenant if over[0][0].startswith("tenant") else None
        displaced = self._queue.displaceable(request.priority, tenant)
        tokens = max(
            count - most for name, count, most in (*over, ("tokens", 0, 0)) if "tokens" in name
        )
        if displaced is not None and displaced.request.tokens >= tokens:
            return displaced
        whose = "this tenant's part of the queue" if "tenant" in subject else "the queue"
        unit = subject.rpartition(".")[2]
        wait = f"with this request, {count:g} {unit} would wait, of {most:g}"
        raise LimitReached(
            subject, f"{whose} is full: {wait}", self._room_after(request.priority, now)
        )

    def _check_deadline(self, sequence: Sequence, now: float) -> None:
        remaining = sequence.request.deadline - now
        if remaining <= 0:
            reason = DeadlinePassed.DEADLINE_UNREACHABLE
            raise DeadlinePassed(reason, "the deadline had passed on arrival")
        needed = self._needed(sequence, remaining)
        if needed > remaining:
            if not self._cache.in_use:
                self._share.doubt(sequence.request.tenant)
            raise DeadlinePassed(
                DeadlinePassed.DEADLINE_UNREACHABLE,
                f"the answer is expected in {duration(needed)}, "
                f"the deadline is in {duration(remaining)}",
                self.comes_again(sequence, now, needed),
            )

    def displaced(self, priority: Priority, now: float) -> LimitReached:
        """The error of a request that a higher class displaced from the full queue."""
        description = "the queue is full, and a request of a higher class took this one's place"
        return LimitReached("queue.requests", description, self._room_after(priority, now))

    def comes_again(self, sequence: Sequence, now: float, needed: float = 0.0) -> float | None:
        """Seconds after which to send a request again whose answer would come too late.

        None where its deadline is too short for a server with nothing else to do.

        Args:
            sequence: The request.
            now: The time.
            needed: Seconds from now to the end of its answer, if not as soon as can be.
        """
        work, many = self._work(sequence), self._can.slots
        time, alone = sequence.request.deadline - sequence.arrived_at, self._seconds_alone(work)
        if alone > time:
            return None
        own = self._seconds(work, many) / many
        return self._promise(sequence.request.priority, max(needed, alone) - time, own, now)

    @property
    def retry_after(self) -> float:
        """Seconds until the queue is expected to have room for one more."""
        many = self._can.slots
        seconds = self._mean_seconds(self._queue.load, many) / many
        return min(max(seconds, RETRY_AFTER_MIN), RETRY_AFTER_MAX)

    def _room_after(self, priority: Priority, now: float) -> float:
        """Seconds after which a request that found the queue full is to be tried again."""
        seconds = self.retry_after
        return self._promise(priority, seconds, seconds, now)

    def _promise(self, priority: Priority, soonest: float, seconds: float, now: float) -> float:
        """Seconds after which to try again: each refused request gets a turn of its own.

        Args:
            priority: Its class. Promises to lower ones do not count.
            soonest: When there is room, if nobody else is told so.
            seconds: What the request takes of the runner.
            now: The time.
        """
        promised = max(at for other, at in self._promised.items() if other >= priority)
        after = min(max(soonest, promised - now, RETRY_AFTER_MIN), RETRY_AFTER_MAX)
        self._promised[priority] = now + after + PROMISE_SPREAD * seconds
        return after

    # When it gets a slot, and while it runs

    def latest_start(self, sequence: Sequence) -> float:
        """When a request has to go on at the latest, even if nothing else is computed."""
        deadline = sequence.request.deadline
        if deadline == math.inf:
            return deadline
        return deadline - self._seconds_alone(self._work(sequence))

    def holds_back(self, sequence: Sequence, now: float) -> bool:
        """Whether a request is to wait although a slot is free, as an answer would be late.

        That is its own answer, or one of those that run and are in time without it. A
        request without a deadline minds the deadlines of higher classes only.
        """
        request, running = sequence.request, self._rivals(sequence)
        above = request.priority + (request.deadline == math.inf)
        others = (other.request for other in running)
        deadlines = [r.deadline if r.priority >= above else math.inf for r in others]
        deadlines.append(request.deadline)
        if not running or min(deadlines) == math.inf:
            return False
        works = [self._work(one) for one in (*running, sequence)]
        without = [*self._seconds_together(works[:-1]), 0.0]
        beside = self._seconds_together(works)
        return any(
            before <= deadline - now < MARGIN * after
            for deadline, before, after in zip(deadlines, without, beside, strict=True)
        )

    # What is expected

    def _needed(self, sequence: Sequence, remaining: float) -> float:
        """Seconds from the arrival of a request to the end of its answer.

        It waits for what it does not preempt or overtake: what runs and waits of its
        class and of higher ones. As many run as leave time to wait.
        """
        priority = sequence.request.priority
        work, running = self._work(sequence), self._rivals(sequence)
        higher = [self._queue.classes[other] for other in Priority if other > priority]
        ahead = sum(load.requests for load in higher) + self._queue.ahead(sequence)
        if not ahead and not running:
            return self._seconds_alone(work)
        # As many run as leave its answer in time, and those without deadlines.
        many = min(sum(one.request.deadline == math.inf for one in running) + 1, self._can.slots)
        while many < self._can.slots and MARGIN * self._seconds(work, many + 1) <= remaining:
            many += 1
        own = MARGIN * self._seconds(work, many)
        if ahead + len(running) < many:
            return own
        mean = self._mean_seconds(self._queue.classes[priority], many) or own
        rests = sum(self._seconds(self._work(one), many) for one in running)
        return own + WAIT_MARGIN * (rests + ahead * mean) / many

    def _rivals(self, sequence: Sequence) -> list[Sequence]:
        """What runs and does not give way to a sequence."""
        priority = sequence.request.priority
        return [s for s in self._cache.holders() if s.request.priority >= priority]

    def _work(self, sequence: Sequence) -> Work:
        """What is left to compute of a sequence, waiting or running."""
        if sequence.slot is not None:
            start = self._cache.position(sequence)
        else:
            match = self._cache.match(sequence)
            start = match[1] if match else 0
        rest = sequence.request.max_tokens - len(sequence.output)
        return Work(
            start, sequence.known_tokens, self._share.expected(sequence.request.tenant) * rest
        )

    def _mean_seconds(self, load: Load, many: int) -> float:
        """Seconds that a request of a load is expected to hold a slot, with so many running."""
        if not load.requests:
            return 0.0
        prompt = load.prompt_tokens // load.requests
        output = self._share.expected("") * (load.tokens - load.prompt_tokens) / load.requests
        return self._seconds(Work(0, prompt, output), many)

    def _seconds(self, work: Work, many: int) -> float:
        """Seconds that work takes with so many like it running."""
        return self._seconds_together([work] * many)[0]

    def _seconds_alone(self, work: Work) -> float:
        """Seconds that work takes on a server with nothing else to do.

        The lower of learned and load-time costs counts: what was learned in a slow
        spell must not refuse for ever.
        """
        costs = (self._cost, self._cost_at_load)
        return min(self._seconds_together([work], cost)[0] for cost in costs)

    def _seconds_together(self, works: list[Work], cost: CostModel | None = None) -> list[float]:
        """Seconds to the end of each answer, if these run: the prompts first, then their rows."""
        cost, chunk = cost or self._cost, self._can.chunk
        # A stream has one token left of its prompt, which is a row.
        prompts = (work for work in works if work.end - work.start > 1)
        seconds = sum(cost.prefill_seconds(work.start, work.end, chunk) for work in prompts)
        context = sum(work.end + work.output / 2 for work in works) / len(works)
        row = cost.rows_seconds(len(works), context)
        return [seconds + work.output * row for work in works]
