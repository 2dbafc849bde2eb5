"""What is taken into the queue, and what is refused, with when to try again.

A deadline is for the whole answer. A request is taken where its answer is expected
in time: its wait, its own prompt, and its output at the pace that its slot will
have. The same is asked again when it could get a slot, and of what runs while others
wait, so capacity is not spent on answers that will come too late.

The pace depends on how many run: with n of them, a token takes the time of n rows,
and the time that prompts take for each token of output, n times. So where deadlines
are short, fewer requests run at once, and the others are held back.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable
from typing import NamedTuple

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
# What a wait may take longer than expected; what an answer may take longer beside as
# many as there are slots; and the part of the expected rest at which what runs is given
# up. In the simulator, twice and four times the capacity, deadlines of 5 and 10 s, the
# goodput of what fills the slots: 0.82 and 0.91, 0.76 and 0.85 with a spread of 1.0,
# 0.79 and 0.93, 0.70 and 0.83 with 0.7; a wait of 1.0 or 1.3 changes less than 0.05.
WAIT_MARGIN, OWN_SPREAD, RUNNING_MARGIN = 1.1, 1.0, 0.8
# How much of a mean the newest value says; of the prompts' share, the newest call.
RATE, CALL_RATE = 0.05, 0.02
# Step targets that prompts take between two tokens of a stream, at most.
GAP_MAX = 2
# A tenant's own mean counts from so many finished requests on.
TENANT_FINISHED_MIN = 8
TENANTS_MAX = 1000


class Verdict(enum.Enum):
    """What becomes of a request that could get a slot."""

    ADMIT = "admit"
    HOLD = "hold"  # fewer should run at once


class Work(NamedTuple):
    """What is left to compute of a request: the prompt from `start` to `end`, and output."""

    start: int
    end: int
    output: float


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
        # Of calls lately: the seconds that chunks took, and the tokens that rows gave.
        self._chunk_seconds = self._row_tokens = 0.0

    # What is learned

    def finished(self, sequence: Sequence) -> None:
        """Take in what a finished request produced."""
        self._share.learn(sequence)

    def called(self, rows: int, seconds: float) -> None:
        """Take in a call: of so many rows, or 0 for chunks."""
        self._chunk_seconds *= 1 - CALL_RATE
        self._row_tokens *= 1 - CALL_RATE
        self._row_tokens += rows
        self._chunk_seconds += 0.0 if rows else seconds

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
        needed = self._needed(sequence, line, Outlook(self._cache.slots, ()))
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
        many = self._can.slots
        seconds = sum(load.requests * self._mean_seconds(load, many) for load in loads)
        return _bounded(seconds / max(requests, 1) / self._can.slots)

    # When it gets a slot, and while it runs

    def verdict(self, sequence: Sequence, outlook: Outlook, now: float) -> Verdict | DeadlinePassed:
        """Whether a waiting request is to run now; the error where it is too late for it.

        It is held back where its answer, or one of those that run, would come too late
        beside the others, and not if it waits for some of these to end.
        """
        if sequence.request.deadline is None:
            return Verdict.ADMIT
        remaining = sequence.request.deadline - now
        work, running = self._work(sequence, outlook), self._rivals(sequence)
        many = len(running) + 1
        needed = self._seconds(work, many) if many > 1 else self._seconds_alone(work)
        in_time = self._margin(many) * needed <= remaining
        if in_time and not self._harms(running, outlook, now):
            return Verdict.ADMIT
        needed = self._soonest(sequence, work, 0, running, outlook)
        return Verdict.HOLD if needed <= remaining else self.unreachable(needed, remaining)

    def _harms(self, running: list[Sequence], outlook: Outlook, now: float) -> bool:
        """Whether what runs in time now would not, with one more beside it."""
        many = len(running)
        for one in running:
            if one.request.deadline is not None:
                left = one.request.deadline - now
                work = self._work(one, outlook)
                before = self._seconds(work, many)
                if before <= left < self._margin(many + 1) * self._seconds(work, many + 1):
                    return True
        return False

    def hopeless(self, sequence: Sequence, outlook: Outlook, now: float) -> bool:
        """Whether what runs cannot be expected to end in time, even if it is fast."""
        deadline = sequence.request.deadline
        if deadline is None:
            return False
        rest = self._seconds(self._work(sequence, outlook), self._cache.in_use)
        return RUNNING_MARGIN * rest > deadline - now

    # What is expected

    def _needed(self, sequence: Sequence, line: Hashable, outlook: Outlook) -> float:
        """Seconds from the arrival of a request to the end of its answer.

        It waits for what it does not preempt or overtake: what runs and waits of its
        class and of higher ones.
        """
        priority = sequence.request.priority
        work, running = self._work(sequence, outlook), self._rivals(sequence)
        higher = [self._queue.of_class(other) for other in Priority if other > priority]
        ahead = sum(load.requests for load in higher) + self._queue.ahead(line, priority)
        if not ahead and not running:
            return self._seconds_alone(work)
        return self._soonest(sequence, work, ahead, running, outlook)

    def _soonest(
        self,
        sequence: Sequence,
        work: Work,
        ahead: int,
        running: list[Sequence],
        outlook: Outlook,
    ) -> float:
        """Seconds to the end of an answer that some go before.

        The fewer run at once, the longer it waits, and the shorter it runs: the best
        number counts.
        """
        load, many = self._queue.of_class(sequence.request.priority), max(len(running), 1)
        rests = sorted(self._seconds(self._work(one, outlook), many) for one in running)
        soonest = float("inf")
        for most in range(1, self._can.slots + 1):
            own = self._margin(most) * self._seconds(work, most)
            ends = len(running) + ahead + 1 - most
            if ends <= 0:
                return min(soonest, own)
            free = ([0.0] * (most - len(rests)) + rests)[-most:]
            turns, place = divmod(ends - 1 - max(len(running) - most, 0), most)
            mean = self._mean_seconds(load, most) if turns else 0.0
            wait = free[max(place, 0)] + max(turns, 0) * (mean or own)
            soonest = min(soonest, own + WAIT_MARGIN * wait)
        return soonest

    def _rivals(self, sequence: Sequence) -> list[Sequence]:
        """What runs and does not give way to a sequence."""
        priority = sequence.request.priority
        return [s for s in self._cache.holders() if s.request.priority >= priority]

    def _mean_seconds(self, load: Load, many: int) -> float:
        """Seconds that a request of a load is expected to hold a slot, with so many running."""
        if not load.requests:
            return 0.0
        prompt = load.prompt_tokens // load.requests
        output = self._share.of("") * (load.tokens - load.prompt_tokens) / load.requests
        return self._prefill_seconds(0, prompt, many) + output * self.pace(many)

    def _work(self, sequence: Sequence, outlook: Outlook) -> Work:
        """What is left to compute of a sequence, waiting or running."""
        if sequence.slot is not None:
            start = outlook.position(sequence.slot)
        else:
            match = self._cache.match(sequence, outlook)
            start = match[1] if match else 0
        output = self._share.of(sequence.request.tenant) * sequence.request.max_tokens
        return Work(start, sequence.known_tokens, max(output - len(sequence.output), 1.0))

    def _seconds(self, work: Work, many: int) -> float:
        """Seconds that work takes with so many running."""
        return self._prefill_seconds(work.start, work.end, many) + work.output * self.pace(many)

    def _seconds_alone(self, work: Work) -> float:
        """Seconds that work takes on a server with nothing else to do.

        The lower of learned and load-time costs counts: what was learned in a slow
        spell must not refuse for ever.
        """
        return min(
            cost.prefill_seconds(work.start, work.end, self._can.chunk)
            + work.output * cost.rows_seconds(1)
            for cost in (self._cost, self._cost_at_load)
        )

    def _margin(self, many: int) -> float:
        """What an answer may take longer than expected, with so many running."""
        return 1 + OWN_SPREAD * (many - 1) / self._can.slots

    def pace(self, many: int) -> float:
        """Seconds between two tokens of a stream, with so many running."""
        prompts = many * self._chunk_seconds / max(self._row_tokens, 1.0)
        return self._cost.rows_seconds(many) + min(prompts, GAP_MAX * self._target)

    def _prefill_seconds(self, start: int, end: int, many: int) -> float:
        """Seconds to compute a prompt, with a rows step of the others after each chunk."""
        seconds = self._cost.prefill_seconds(start, end, self._can.chunk)
        rows = self._cost.rows_seconds(many - 1) if many > 1 else 0.0
        return seconds * (1 + rows / self._target)


def _bounded(seconds: float) -> float:
    return min(max(seconds, RETRY_AFTER_MIN), RETRY_AFTER_MAX)
