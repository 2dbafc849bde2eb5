"""Runs the scheduler under virtual time, without a runner, at thousands of requests a second.

The runner is a virtual one: it has two steps at most, one that it computes and one
that is queued, and gives the queued one back when it is recalled in time.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from llm_serving_engine.backends.follow import Follower
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.scheduler.events import SchedulerEvent
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.step import Step, StepResult
from llm_serving_engine.server.simulator.slowdown import EVEN, Slowdown


class Action(NamedTuple):
    """Something that a caller does at a time: `do(scheduler, now)`."""

    at: float
    do: Callable[[Scheduler, float], object]


class StepRecord(NamedTuple):
    """A step that was done, and when it was begun and ended."""

    at: float
    step: Step
    result: StepResult
    ended: float


class RunnerDied(Exception):
    """Raised by `execute` to let the runner die."""


@dataclass
class VirtualRunner:
    """Does steps one after the other, in the time that a cost model says.

    Attributes:
        execute: Does a step, and may check it.
        cost: How long calls and operations take.
        handover: Seconds that each step takes beside them.
        slowdown: How the machine's speed changes.
        ready: When the last step ends.
    """

    execute: Callable[[Step], StepResult]
    cost: CostModel
    handover: float = 0.0
    slowdown: Slowdown = EVEN
    ready: float = 0.0
    _steps: deque[tuple[Step, float]] = field(default_factory=deque)
    _recalled: set[int] = field(default_factory=set)
    # What comes of the oldest step, once it has begun, and how long it takes.
    _outcome: StepResult | RunnerDied | None = None
    _seconds: float = 0.0

    def __post_init__(self) -> None:
        self._begin_anew()

    def send(self, step: Step, now: float) -> None:
        """Take a step."""
        assert len(self._steps) < 2, "a third step"
        self._steps.append((step, now))

    def recall(self, number: int, now: float) -> None:
        """Give a step back, unless it has begun."""
        if len(self._steps) == 2 and self._steps[1][0].number == number and now < self.ends:
            self._recalled.add(number)

    @property
    def begins(self) -> float:
        """When the oldest step begins or began."""
        return max(self.ready, self._steps[0][1])

    @property
    def ends(self) -> float:
        """The end of the oldest step; infinity without a step."""
        if not self._steps:
            return math.inf
        if self._outcome is None:
            self._outcome = self._do(self._steps[0][0])
        return self.begins + self._seconds

    def finish(self) -> tuple[Step, StepResult]:
        """End the oldest step. Raises RunnerDied if the runner dies at it."""
        self.ready, outcome = self.ends, self._outcome
        self._outcome = None
        step, _ = self._steps.popleft()
        if isinstance(outcome, RunnerDied):
            raise outcome
        assert outcome is not None
        return step, outcome

    def _do(self, step: Step) -> StepResult | RunnerDied:
        self._seconds = 0.0
        if step.number in self._recalled:
            return StepResult(step.number, recalled=True)
        slower = self.slowdown.at(self.begins)
        operations = self._seconds = slower * self.cost.operations(step.operations)
        try:
            result = self._follower.execute(step)
        except RunnerDied as death:
            return death
        call = slower * (self._seconds - operations)
        self._seconds = operations + call + self.handover
        return result._replace(seconds=call, operation_seconds=operations)

    def _execute(self, step: Step) -> StepResult:
        """Do a step, without the runs that are skipped: they take no time."""
        self._seconds += self.cost.predict(step.shape)
        return self.execute(step)

    def _begin_anew(self) -> None:
        self._follower = Follower(self._execute)
        self._outcome, self._seconds = None, 0.0

    def restart(self, at: float) -> None:
        """Begin anew with nothing."""
        self._steps.clear()
        self._recalled.clear()
        self._begin_anew()
        self.ready = at


@dataclass
class Simulation:
    """Runs a scheduler against `execute`, which stands for the runner.

    Attributes:
        scheduler: The real one.
        execute: Does a step, and may check it; raises RunnerDied for a runner that dies.
        cost: How long calls take. Not the scheduler's own model, which learns.
        handover: Seconds that a step takes beside them.
        slowdown: How the machine's speed changes.
        recovery: Seconds that it takes to replace a runner that died.
        outside: Whether the runner dies of something that no request can cause.
        ahead: Whether the runner takes a second step before the first is done.
        now: The virtual time, in seconds.
        events: Everything the scheduler said, in order, with its time.
        refusals: The requests it did not take.
        steps: Every step.
    """

    scheduler: Scheduler
    execute: Callable[[Step], StepResult]
    cost: CostModel = field(default_factory=CostModel)
    handover: float = 0.0
    slowdown: Slowdown = EVEN
    recovery: float = 1.0
    outside: bool = False
    ahead: bool = True
    now: float = 0.0
    events: list[tuple[float, SchedulerEvent]] = field(default_factory=list)
    refusals: list[tuple[Request, RequestError]] = field(default_factory=list)
    steps: list[StepRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._agenda: list[tuple[float, int, Action]] = []
        self._order = itertools.count()
        self._lost = False
        self.runner = VirtualRunner(
            lambda step: self.execute(step), self.cost, self.handover, self.slowdown
        )

    def submit_at(self, at: float, request: Request) -> None:
        """Put a request on the agenda."""
        self.act_at(at, lambda scheduler, now: self._submit(scheduler, request, now))

    def cancel_at(self, at: float, request_id: str) -> None:
        """Put on the agenda that the requests of that id are cancelled."""

        def cancel(scheduler: Scheduler, now: float) -> None:
            for sequence in scheduler.live():
                if sequence.request.id == request_id:
                    scheduler.cancel(sequence.key, now)

        self.act_at(at, cancel)

    def act_at(self, at: float, do: Callable[[Scheduler, float], object]) -> None:
        """Put anything on the agenda."""
        heapq.heappush(self._agenda, (at, next(self._order), Action(at, do)))

    def run(self, steps_max: int = 1_000_000) -> None:
        """Go on until the agenda is empty and nothing is left to do.

        Raises:
            RuntimeError: That took more than `steps_max` turns.
        """
        for _ in range(steps_max):
            self._send()
            acts = self._agenda[0][0] if self._agenda else math.inf
            back = self.runner.ready if self.now < self.runner.ready and self._lost else math.inf
            if min(acts, back, self.runner.ends) == math.inf:
                return
            if acts <= min(back, self.runner.ends):
                self._act()
            elif back < math.inf:
                self.now, self._lost = back, False
            else:
                self._finish()
            self._collect()
        raise RuntimeError(f"still busy after {steps_max} turns")

    # What becomes of what happens: long simulations keep less.

    def heard(self, event: SchedulerEvent) -> None:
        """The scheduler said something, at `now`."""
        self.events.append((self.now, event))

    def refused(self, request: Request, error: RequestError) -> None:
        """The scheduler did not take a request, at `now`."""
        self.refusals.append((request, error))

    def stepped(self, record: StepRecord) -> None:
        """A step was done."""
        self.steps.append(record)

    def _send(self) -> None:
        """Send steps until the runner has what it takes."""
        while not self._lost and (self.ahead or not self.scheduler.cache.flights):
            step = self.scheduler.schedule(self.now)
            self._collect()
            if step is None:
                return
            self.runner.send(step, self.now)

    def _act(self) -> None:
        """Execute the next event; a new request may recall the queued step."""
        action = heapq.heappop(self._agenda)[2]
        self.now = max(self.now, action.at)
        action.do(self.scheduler, self.now)
        number = self.scheduler.recall(self.now)
        if number is not None:
            self.runner.recall(number, self.now)

    def _finish(self) -> None:
        begun, self.now = self.runner.begins, max(self.now, self.runner.ends)
        try:
            step, result = self.runner.finish()
        except RunnerDied:
            self.scheduler.runner_lost(self.now, outside=self.outside)
            # Until another one is there, nothing is planned.
            self.runner.restart(self.now + self.recovery)
            self._lost = True
            return
        self.scheduler.apply(result, self.now)
        if any(run.done for run in result.runs):
            self.stepped(StepRecord(begun, step, result, self.now))

    def _submit(self, scheduler: Scheduler, request: Request, now: float) -> None:
        try:
            scheduler.submit(request, now)
        except RequestError as error:
            self.refused(request, error)

    def _collect(self) -> None:
        for event in self.scheduler.take_events():
            self.heard(event)
