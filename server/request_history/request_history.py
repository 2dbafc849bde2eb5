"""Keeps records of a model's last requests, written by an observer of its engine."""

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
from llm_serving_engine.server.request_history.request_record import (
    Ahead,
    Deferral,
    RequestRecord,
    Stage,
)

# Enough for a reader that polls a few times a second.
STEPS_KEPT = 1000


class StepSample(NamedTuple):
    """A completed step: its time, duration, decode rows, and prompt tokens."""

    at: float
    seconds: float
    rows: int
    prompt_tokens: int


class RequestHistory:
    """The records of the last requests: bounded in number, without the requests' text."""

    def __init__(
        self,
        kept_max: int,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        steps_max: int = STEPS_KEPT,
    ) -> None:
        """Create an empty history.

        Args:
            kept_max: Requests to keep; the oldest are dropped first.
            clock: The engine's clock.
            wall: The time in seconds since 1970.
            steps_max: Steps to keep.
        """
        self._kept_max = kept_max
        self.clock = clock
        self._wall = wall
        self._numbers = itertools.count(1)
        self._records: OrderedDict[int, RequestRecord] = OrderedDict()
        self._changed: dict[int, RequestRecord] = {}
        self._steps: deque[StepSample] = deque(maxlen=steps_max)

    def __iter__(self) -> Iterator[RequestRecord]:
        """Iterate over the records, oldest first."""
        return iter(self._records.values())

    @property
    def wall_offset(self) -> float:
        """The difference between seconds since 1970 and the engine's clock."""
        return self._wall() - self.clock()

    def of_id(self, request_id: str) -> list[RequestRecord]:
        """Return the records with the caller's id `request_id`, newest first."""
        return [
            record for record in reversed(self._records.values()) if record.request_id == request_id
        ]

    def observer(self, scheduler: Callable[[], Scheduler | None]) -> HistoryObserver:
        """Return an observer for one engine; each engine needs its own.

        Args:
            scheduler: Returns the engine's scheduler.
        """
        return HistoryObserver(self, scheduler)

    def take_changed(self) -> list[RequestRecord]:
        """Return the records that changed since the last call."""
        changed, self._changed = list(self._changed.values()), {}
        return changed

    def take_steps(self) -> list[StepSample]:
        """Return the steps completed since the last call, at most `steps_max`."""
        steps = list(self._steps)
        self._steps.clear()
        return steps

    # For the observer

    def begin(self, request: Request, at: float, ahead: Ahead) -> RequestRecord:
        """Add a record for a new request; drop the oldest records above the limit."""
        record = RequestRecord(
            next(self._numbers),
            request.id,
            Priority(request.priority),
            request.tenant,
            len(request.prompt),
            request.max_tokens,
            self.wall_offset + at,
            ahead,
        )
        self._records[record.number] = record
        while len(self._records) > self._kept_max:
            number, _ = self._records.popitem(last=False)
            self._changed.pop(number, None)
        return record

    def changed(self, record: RequestRecord) -> None:
        """Mark a record as changed."""
        if record.number in self._records:
            self._changed[record.number] = record

    def stepped(self, sample: StepSample) -> None:
        """Add a completed step."""
        self._steps.append(sample)


class HistoryObserver:
    """Records the requests of one engine; an `Observer`."""

    def __init__(self, history: RequestHistory, scheduler: Callable[[], Scheduler | None]) -> None:
        self._history = history
        self._scheduler = scheduler
        self._live: dict[int, RequestRecord] = {}
        self._sequences: dict[int, Sequence] = {}
        # The last known slot of each running request, by key.
        self._slots: dict[int, int] = {}
        # The last preemption of each slot: its time, and the stage of the preempted request.
        self._preempted: dict[int, tuple[float, Stage]] = {}

    def transitioned(self, sequence: Sequence) -> None:
        """Append the request's new transitions to its record."""
        record = self._live.get(sequence.key)
        if record is None:
            ahead = _ahead(sequence, self._scheduler())
            record = self._history.begin(sequence.request, sequence.arrived_at, ahead)
            self._live[sequence.key] = record
            self._sequences[sequence.key] = sequence
        for transition in sequence.history[len(record.stages) :]:
            record.stages.append(self._stage(record, sequence, transition))
        self._settle(record, sequence)
        if sequence.state.ended:
            del self._live[sequence.key], self._sequences[sequence.key]
        self._history.changed(record)

    def refused(self, request: Request, error: RequestError) -> None:
        """Ignore a refused request: only accepted ones have a record."""

    def stepped(self, step: Step, result: StepResult) -> None:
        """Record the step, and its restored caches, moves, and deferrals."""
        now = self._history.clock()
        rows = len(step.runs) if step.rows else 0
        self._history.stepped(
            StepSample(now, result.seconds + result.operation_seconds, rows, step.prompt_tokens)
        )
        filled = self._filled(step, result)
        for run in step.runs:
            if (record := self._live.get(run.key)) is None:
                continue
            stage = record.stages[-1]
            record.output_tokens = len(self._sequences[run.key].output)
            if run.slot in filled and stage.restored_at is None and stage.state is State.PREFILL:
                stage.restored_at = now
                stage.restored_tokens, stage.copied = filled[run.slot]
            if stage.state.running and self._slots.get(run.key, run.slot) != run.slot:
                record.moves.append((now, run.slot))
                self._slots[run.key] = run.slot
            self._history.changed(record)
        self._note_deferrals(now)

    def _filled(self, step: Step, result: StepResult) -> dict[int, tuple[int, bool]]:
        """Return restored or copied caches by slot: their tokens, and whether they were copied."""
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
            record = self._live.get(sequence.key)
            donor = awaited.donor.request.id
            if record is None or any(one.donor == donor for one in record.deferrals):
                continue
            record.deferrals.append(Deferral(now, donor, awaited.tokens))
            self._history.changed(record)

    def _stage(self, record: RequestRecord, sequence: Sequence, transition: Transition) -> Stage:
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
                lost.taken_by = record
        return stage

    @staticmethod
    def _settle(record: RequestRecord, sequence: Sequence) -> None:
        record.cached_tokens = sequence.cached_prompt_tokens
        record.output_tokens = len(sequence.output)
        record.finish_reason = sequence.finish_reason
        record.error = "" if sequence.error is None else str(sequence.error)


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
