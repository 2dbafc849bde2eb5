"""Replays a trace through the real scheduler under virtual time."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.scheduler.events import Begun, Produced, SchedulerEvent, Totals
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.policies.fair import (
    OUTPUT_TOKEN_WEIGHT,
    PROMPT_TOKEN_WEIGHT,
)
from llm_serving_engine.scheduler.policy import load_policy
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence as Running
from llm_serving_engine.scheduler.step import (
    Output,
    Run,
    RunResult,
    Step,
    StepResult,
)
from llm_serving_engine.server.engine.observer import Observer
from llm_serving_engine.server.simulator.replay_settings import ReplaySettings
from llm_serving_engine.server.simulator.simulation import Simulation, StepRecord
from llm_serving_engine.server.simulator.trace import TraceRecord, synthetic_tokens
from llm_serving_engine.server.simulator.turns import previous_turns

STOP_TOKEN, OTHER_TOKEN = 0, 1
# The tenants with the most requests, whose service is followed.
TENANTS_FOLLOWED = 8

ObserverFactory = Callable[[Scheduler, Callable[[], float]], Observer]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one request.

    Attributes:
        record: What was asked.
        state: How it ended; None where it was refused.
        error: The label of its error; empty where there is none.
        first_token_seconds: From arrival to the first token, if there was one.
        output_token_seconds: Between its tokens, on average; None below two.
        output_tokens: Tokens that it produced.
        in_time: Whether it finished, and not after its deadline.
    """

    record: TraceRecord
    state: State | None
    error: str = ""
    first_token_seconds: float | None = None
    output_token_seconds: float | None = None
    output_tokens: int = 0
    in_time: bool = False


@dataclass(frozen=True, slots=True)
class Replay:
    """The result of a trace under a policy.

    Attributes:
        policy: Its name.
        outcomes: One for each request.
        makespan: Seconds from the first arrival to the end of the last request.
        steps: Steps that took.
        fairness_gaps: For each class, how far what two tenants got for their
            requests of it came apart while both had such requests waiting: the
            most over all pairs and periods, in weighted tokens.
        service: Weighted tokens of each followed tenant so far, over time.
        totals: What the scheduler did.
    """

    policy: str
    outcomes: tuple[Outcome, ...]
    makespan: float
    steps: int
    fairness_gaps: Mapping[Priority, float]
    service: Mapping[str, Sequence[tuple[float, float]]]
    totals: Totals


def replay(
    records: Sequence[TraceRecord],
    policy: str,
    settings: ReplaySettings | None = None,
    observer: ObserverFactory | None = None,
) -> Replay:
    """Replay a trace. Raises ValueError for a policy that is unknown, or fails.

    Args:
        records: The trace.
        policy: Its name, or an import path.
        settings: The server.
        observer: Makes what is told of everything, given the scheduler and its clock.
    """
    settings = settings or ReplaySettings()
    run = _Run(records, policy, settings)
    if observer is not None:
        run.observer = observer(run.scheduler, lambda: run.now)
    # Each turn brings a token or a chunk, or goes on to the next arrival.
    turns = sum(r.prompt_tokens + r.max_tokens + 10 for r in records)
    run.run(steps_max=100 * turns)
    if run.scheduler.policy.failure:
        raise ValueError(run.scheduler.policy.failure)
    return Replay(
        policy,
        tuple(run.outcomes),
        run.now - min(record.at for record in records),
        run.steps_done,
        {priority: gap.most for priority, gap in run.gaps.items()},
        {tenant: line.points(run.now) for tenant, line in run.lines.items()},
        run.scheduler.totals,
    )


class _Run(Simulation):
    """A simulation that keeps outcomes only, and whose runner ends sequences as recorded."""

    def __init__(
        self, records: Sequence[TraceRecord], policy: str, settings: ReplaySettings
    ) -> None:
        config = replace(settings.config, policy=policy)
        scheduler = Scheduler(settings.timed(), config, load_policy(policy, config))
        cost = settings.costs.model()
        super().__init__(
            scheduler,
            self._answer,
            cost,
            handover=settings.handover_seconds,
            slowdown=settings.slowdown,
        )
        self.observer: Observer | None = None
        self.outcomes: list[Outcome] = []
        self.steps_done = 0
        self._records = {str(number): record for number, record in enumerate(records)}
        # What the outputs of live requests begin with, where others go on with it.
        self._continuations: dict[str, tuple[int, ...]] = {}
        tenants = busiest(records)
        self.gaps = {priority: FairnessGap(tenants) for priority in Priority}
        self.lines = {tenant: Line() for tenant in tenants}
        self._service: dict[Priority, dict[str, float]] = {p: defaultdict(float) for p in Priority}
        self._waiting: dict[Priority, Counter[str]] = {p: Counter() for p in Priority}
        self._who_waits: set[str] = set()
        # What comes after the end of another request.
        self._next_turns: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, previous in previous_turns(records).items():
            self._next_turns[str(previous.number)].append((number, previous.pause))
        later = {number for turns in self._next_turns.values() for number, _ in turns}
        for number, record in enumerate(records):
            if number not in later:
                self._submit_later(number, record.at)

    def _submit_later(self, number: int, at: float) -> None:
        """Prompts are made when they come: all at once would take much memory."""

        def submit(scheduler: Scheduler, now: float) -> None:
            record = self._records[str(number)]
            context = scheduler.capabilities.context
            prompt, continuation = synthetic_tokens(record, number, context)
            self._continuations[str(number)] = continuation
            deadline = math.inf if record.deadline is None else now + record.deadline
            request = Request(
                str(number),
                prompt,
                record.max_tokens,
                stop_tokens=frozenset({STOP_TOKEN}),
                priority=record.priority,
                tenant=record.tenant,
                deadline=deadline,
            )
            self._submit(scheduler, request, now)

        self.act_at(at, submit)

    def _answer(self, step: Step) -> StepResult:
        for priority, gap in self.gaps.items():
            gap.look(self._service[priority], self._waiting[priority])
        runs = tuple(map(self._compute, step.runs))
        return StepResult(step.number, runs=runs)

    def _compute(self, run: Run) -> RunResult:
        sequence = self.scheduler.get(run.key)
        if not run.output & Output.SAMPLE or sequence is None:
            return RunResult(run.key, len(run.tokens))
        # Of the calls of a step, only the first begins where confirmed output ends.
        name, produced = sequence.request.id, run.end - len(sequence.request.prompt)
        token = next(iter(self._continuations[name][produced : produced + 1]), OTHER_TOKEN)
        if produced >= self._records[name].output_tokens:
            token = STOP_TOKEN
        return RunResult(run.key, len(run.tokens), (token,))

    def heard(self, event: SchedulerEvent) -> None:
        """Count service and who waits; keep what became of a request that ended."""
        sequence, request = event.sequence, event.sequence.request
        service = self._service[request.priority]
        if isinstance(event, Produced):
            service[request.tenant] += OUTPUT_TOKEN_WEIGHT
        elif isinstance(event, Begun):
            computed = len(request.prompt) - (sequence.cached_prompt_tokens or 0)
            service[request.tenant] += PROMPT_TOKEN_WEIGHT * computed
        else:
            self._moved(request, event.transition.state)
            if self.observer is not None and event.transition is sequence.history[-1]:
                self.observer.transitioned(sequence)
            if event.transition.state.ended:
                self._ended(request, _outcome(self._records[request.id], sequence))

    def _moved(self, request: Request, state: State) -> None:
        waiting = self._waiting[request.priority]
        if request.id in self._who_waits:
            self._who_waits.remove(request.id)
            waiting[request.tenant] -= 1
        if state is State.WAITING:
            self._who_waits.add(request.id)
            waiting[request.tenant] += 1

    def refused(self, request: Request, error: RequestError) -> None:
        """Keep that it was refused."""
        self._ended(request, Outcome(self._records[request.id], None, error.label))

    def _ended(self, request: Request, outcome: Outcome) -> None:
        """Record a request's outcome, and submit the requests that waited for its answer."""
        self.outcomes.append(outcome)
        del self._continuations[request.id]
        for number, pause in self._next_turns.pop(request.id, ()):
            self._submit_later(number, self.now + pause)

    def stepped(self, record: StepRecord) -> None:
        """Follow the tenants' service."""
        self.steps_done += 1
        if self.observer is not None:
            self.observer.stepped(record.step, record.result)
        for tenant, line in self.lines.items():
            line.add(self.now, sum(service[tenant] for service in self._service.values()))


class FairnessGap:
    """How far the service of any two tenants comes apart while both wait."""

    def __init__(self, tenants: Iterable[str]) -> None:
        self.most = 0.0
        self._pairs = list(itertools.combinations(tenants, 2))
        # Of each pair that waits: the least and the most difference since both do.
        self._ranges: dict[tuple[str, str], tuple[float, float]] = {}

    def look(self, service: Mapping[str, float], waiting: Mapping[str, int]) -> None:
        """Take in what each tenant has had, and how many of its requests wait, at one time."""
        for pair in self._pairs:
            a, b = pair
            if not (waiting.get(a) and waiting.get(b)):
                self._ranges.pop(pair, None)
                continue
            apart = service.get(a, 0.0) - service.get(b, 0.0)
            low, high = self._ranges.get(pair, (apart, apart))
            low, high = min(low, apart), max(high, apart)
            self._ranges[pair] = low, high
            self.most = max(self.most, high - low)


class Line:
    """A value over time, in a bounded number of points: each second one goes when there are many.

    The times are in seconds, ascending.
    """

    POINTS_MAX = 400

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = [(0.0, 0.0)]
        self._interval = 0.0
        self._last = 0.0

    def add(self, at: float, value: float) -> None:
        """The value at a time."""
        self._last = value
        if at - self._points[-1][0] < self._interval:
            return
        self._points.append((at, value))
        if len(self._points) > self.POINTS_MAX:
            self._points = self._points[::2]
            self._interval = max(2 * self._interval, at / self.POINTS_MAX)

    def points(self, end: float) -> tuple[tuple[float, float], ...]:
        """Return the kept points with the last value at the end."""
        return (*self._points, (end, self._last))


def busiest(records: Iterable[TraceRecord], count: int = TENANTS_FOLLOWED) -> tuple[str, ...]:
    """The tenants with the most requests, in the order of their names."""
    requests = Counter(record.tenant for record in records)
    return tuple(sorted(tenant for tenant, _ in requests.most_common(count)))


def _outcome(record: TraceRecord, sequence: Running) -> Outcome:
    first, last = sequence.first_token_at, sequence.last_token_at
    finished, ended = sequence.state is State.FINISHED, sequence.history[-1].at
    # The stop token took its time too, though it is no output.
    stopped = sequence.stop_token is not None
    sampled = len(sequence.output) + stopped
    between = None
    if first is not None and last is not None and sampled > 1:
        between = (last - first) / (sampled - 1)
    return Outcome(
        record,
        sequence.state,
        "" if sequence.error is None else sequence.error.label,
        None if first is None else first - sequence.arrived_at,
        between,
        len(sequence.output),
        finished and ended <= sequence.request.deadline,
    )
