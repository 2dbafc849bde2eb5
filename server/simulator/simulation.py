"""The scheduler under virtual time: no runner, no clock, thousands of requests a second."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.cost import CostModel, Shape
from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.scheduler.events import SchedulerEvent
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.step import Step, StepResult


class Action(NamedTuple):
    """Something that a caller does at a time: `do(scheduler, now)`."""

    at: float
    do: Callable[[Scheduler, float], object]


class StepRecord(NamedTuple):
    """A step that was done, and when it was begun."""

    at: float
    step: Step
    result: StepResult


@dataclass
class Simulation:
    """Runs a scheduler against `execute`, which stands for the runner.

    Attributes:
        scheduler: The real one.
        execute: Does a step, and may check it; its result's duration is
            replaced by the cost model's. None stands for a runner that died.
        cost: How long steps take. Not the scheduler's own model, which learns.
        recovery: Seconds that it takes to replace a runner that died.
        outside: Whether a runner that died did so of nothing that a request can cause.
        now: The virtual time, in seconds.
        events: Everything the scheduler said, in order, with its time.
        refusals: The requests it did not take.
        steps: Every step.
    """

    scheduler: Scheduler
    execute: Callable[[Step], StepResult | None]
    cost: CostModel = field(default_factory=CostModel)
    recovery: float = 1.0
    outside: bool = False
    now: float = 0.0
    events: list[tuple[float, SchedulerEvent]] = field(default_factory=list)
    refusals: list[tuple[Request, RequestError]] = field(default_factory=list)
    steps: list[StepRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._agenda: list[tuple[float, int, Action]] = []
        self._order = itertools.count()

    def submit_at(self, at: float, request: Request) -> None:
        """Put a request on the agenda."""
        self.act_at(at, lambda scheduler, now: self._submit(scheduler, request, now))

    def cancel_at(self, at: float, request_id: str) -> None:
        """Put a cancellation on the agenda."""
        self.act_at(at, lambda scheduler, now: scheduler.cancel(request_id, now))

    def act_at(self, at: float, do: Callable[[Scheduler, float], object]) -> None:
        """Put anything on the agenda."""
        heapq.heappush(self._agenda, (at, next(self._order), Action(at, do)))

    def run(self, steps_max: int = 1_000_000) -> None:
        """Go on until the agenda is empty and nothing is left to do.

        Raises:
            RuntimeError: That took more than `steps_max` steps.
        """
        for _ in range(steps_max):
            self._act_until(self.now)
            step = self.scheduler.schedule(self.now)
            self._collect()
            if not step.empty:
                self._execute(step)
            elif self._agenda:
                self.now = self._agenda[0][0]
            else:
                return
        raise RuntimeError(f"still busy after {steps_max} steps")

    def seconds(self, step: Step) -> float:
        """How long a step takes."""
        return self.cost.predict(Shape.of(step))

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

    def _execute(self, step: Step) -> None:
        begun, ends = self.now, self.now + self.seconds(step)
        result = self.execute(step)
        # Callers act while the step is under way, at their own time.
        self._act_until(ends)
        self.now = ends
        if result is None:
            self.scheduler.runner_lost(ends, outside=self.outside)
            self.now += self.recovery
        else:
            result = result._replace(duration=ends - begun)
            self.scheduler.apply(result, ends)
            self.stepped(StepRecord(begun, step, result))
        self._collect()

    def _act_until(self, until: float) -> None:
        for action in self._take_due(until):
            self.now = max(self.now, action.at)
            action.do(self.scheduler, self.now)
            self._collect()

    def _take_due(self, until: float) -> Iterable[Action]:
        while self._agenda and self._agenda[0][0] <= until:
            yield heapq.heappop(self._agenda)[2]

    def _submit(self, scheduler: Scheduler, request: Request, now: float) -> None:
        try:
            scheduler.submit(request, now)
        except RequestError as error:
            self.refused(request, error)

    def _collect(self) -> None:
        for event in self.scheduler.take_events():
            self.heard(event)
