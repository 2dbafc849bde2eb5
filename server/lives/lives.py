"""The last requests of a model, kept by an observer of its engine."""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition
from llm_serving_engine.scheduler.step import Copy, Restore, Step, StepResult
from llm_serving_engine.server.lives.life import Ahead, Deferral, Life, Stage

# Steps that are kept for a reader that looks a few times a second.
STEPS_KEPT = 1000


class StepSample(NamedTuple):
    """A step that was done: when, how long it took, and what was in it."""

    at: float
    seconds: float
    rows: int
    prompt_tokens: int


class Lives:
    """The last requests. Memory stays within the limit, and nothing of what they say is in it."""

    def __init__(
        self,
        kept_max: int,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        steps_max: int = STEPS_KEPT,
    ) -> None:
        """Keep nothing yet.

        Args:
            kept_max: Requests to keep; those that came first are forgotten first.
            clock: The engine's.
            wall: Seconds since 1970.
            steps_max: Steps to keep.
        """
        self._kept_max = kept_max
        self.clock = clock
        self._wall = wall
        self._numbers = itertools.count(1)
        self._lives: OrderedDict[int, Life] = OrderedDict()
        self._changed: dict[int, Life] = {}
        self._steps: deque[StepSample] = deque(maxlen=steps_max)

    def __iter__(self) -> Iterator[Life]:
        """All that are kept, oldest first."""
        return iter(self._lives.values())

    @property
    def wall_offset(self) -> float:
        """What to add to the engine's clock for seconds since 1970."""
        return self._wall() - self.clock()

    def of_id(self, request_id: str) -> list[Life]:
        """Those whose callers know them by this id, the newest first."""
        return [life for life in reversed(self._lives.values()) if life.request_id == request_id]

    def observer(self, scheduler: Callable[[], Scheduler | None]) -> LifeObserver:
        """What an engine tells; each engine has an observer of its own.

        Args:
            scheduler: The engine's.
        """
        return LifeObserver(self, scheduler)

    def take_changed(self) -> list[Life]:
        """Those that changed since the last call."""
        changed, self._changed = list(self._changed.values()), {}
        return changed

    def take_steps(self) -> list[StepSample]:
        """The steps that were done since the last call, as far as they are kept."""
        steps = list(self._steps)
        self._steps.clear()
        return steps

    # For the observer

    def begin(self, request: Request, at: float, ahead: Ahead) -> Life:
        """Keep a request that came; forget the oldest where there are too many."""
        life = Life(
            next(self._numbers),
            request.id,
            Priority(request.priority),
            request.tenant,
            len(request.prompt),
            request.max_tokens,
            self.wall_offset + at,
            ahead,
        )
        self._lives[life.number] = life
        while len(self._lives) > self._kept_max:
            number, _ = self._lives.popitem(last=False)
            self._changed.pop(number, None)
        return life

    def changed(self, life: Life) -> None:
        """Take in that a request has changed."""
        if life.number in self._lives:
            self._changed[life.number] = life

    def stepped(self, sample: StepSample) -> None:
        """Keep a step."""
        self._steps.append(sample)


class LifeObserver:
    """An Observer that writes the lives of one engine's requests."""

    def __init__(self, lives: Lives, scheduler: Callable[[], Scheduler | None]) -> None:
        self._lives = lives
        self._scheduler = scheduler
        self._live: dict[int, Life] = {}
        self._sequences: dict[int, Sequence] = {}
        # Where each running request was last, by key.
        self._slots: dict[int, int] = {}
        # Who lost a slot last, by slot, and when.
        self._preempted: dict[int, tuple[float, Stage]] = {}

    def transitioned(self, sequence: Sequence) -> None:
        """Write what is new of a request."""
        life = self._live.get(sequence.key)
        if life is None:
            ahead = _ahead(sequence, self._scheduler())
            life = self._lives.begin(sequence.request, sequence.arrived_at, ahead)
            self._live[sequence.key] = life
            self._sequences[sequence.key] = sequence
        for transition in sequence.history[len(life.stages) :]:
            life.stages.append(self._stage(life, sequence, transition))
        self._settle(life, sequence)
        if sequence.state.ended:
            del self._live[sequence.key], self._sequences[sequence.key]
        self._lives.changed(life)

    def refused(self, request: Request, error: RequestError) -> None:
        """A request that was not taken has no life."""

    def stepped(self, step: Step, result: StepResult) -> None:
        """Write what a step tells of slots: caches that came back, moves, deferrals."""
        now = self._lives.clock()
        rows = len(step.runs) if step.rows else 0
        self._lives.stepped(
            StepSample(now, result.seconds + result.operation_seconds, rows, step.prompt_tokens)
        )
        filled = self._filled(step, result)
        for run in step.runs:
            if (life := self._live.get(run.key)) is None:
                continue
            stage = life.stages[-1]
            life.output_tokens = len(self._sequences[run.key].output)
            if run.slot in filled and stage.restored_at is None and stage.state is State.PREFILL:
                stage.restored_at = now
                stage.restored_tokens, stage.copied = filled[run.slot]
            if stage.state.running and self._slots.get(run.key, run.slot) != run.slot:
                life.moves.append((now, run.slot))
                self._slots[run.key] = run.slot
            self._lives.changed(life)
        self._note_deferrals(now)

    def _filled(self, step: Step, result: StepResult) -> dict[int, tuple[int, bool]]:
        """The slots whose caches were restored or copied: how many tokens, and whether copied."""
        filled = {}
        for index, operation in enumerate(step.operations):
            if index in result.failed:
                continue
            if isinstance(operation, Restore):
                filled[operation.slot] = operation.tokens, False
            elif isinstance(operation, Copy):
                filled[operation.target] = operation.tokens, True
        return filled

    def _note_deferrals(self, now: float) -> None:
        scheduler = self._scheduler()
        if scheduler is None:
            return
        for sequence, awaited in scheduler.queue.deferrals():
            life = self._live.get(sequence.key)
            donor = awaited.donor.request.id
            if life is None or any(one.donor == donor for one in life.deferrals):
                continue
            life.deferrals.append(Deferral(now, donor, awaited.tokens))
            self._lives.changed(life)

    def _stage(self, life: Life, sequence: Sequence, transition: Transition) -> Stage:
        state, at, event = transition
        stage = Stage(state, event, at, len(sequence.output))
        before = self._slots.get(sequence.key)
        if state.running:
            stage.slot = before if sequence.slot is None else sequence.slot
        if stage.slot is None:
            self._slots.pop(sequence.key, None)
        else:
            self._slots[sequence.key] = stage.slot
        if event is Event.PREEMPT and before is not None:
            self._preempted[before] = at, stage
        elif event is Event.ADMIT and stage.slot is not None:
            lost_at, lost = self._preempted.pop(stage.slot, (None, None))
            if lost is not None and lost_at == at:
                lost.taken_by = life
        return stage

    @staticmethod
    def _settle(life: Life, sequence: Sequence) -> None:
        life.cached_tokens = sequence.cached_prompt_tokens
        life.output_tokens = len(sequence.output)
        life.finish_reason = sequence.finish_reason
        life.error = "" if sequence.error is None else str(sequence.error)


def _ahead(sequence: Sequence, scheduler: Scheduler | None) -> Ahead:
    if scheduler is None:
        return Ahead()
    queue, request = scheduler.queue, sequence.request
    higher = sum(queue.classes[one].requests for one in Priority if one > request.priority)
    waits = sequence.state is State.WAITING
    return Ahead(
        higher,
        max(queue.classes[Priority(request.priority)].requests - waits, 0),
        max(queue.of_tenant(request.tenant).requests - waits, 0),
        len(queue.tenants),
        len(scheduler.cache.slots),
        scheduler.cache.in_use,
    )
