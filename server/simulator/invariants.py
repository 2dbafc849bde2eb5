"""Checks the scheduler's invariants, in tests and on demand."""

from __future__ import annotations

from llm_serving_engine.scheduler.core import STEPS_MAX, Scheduler
from llm_serving_engine.scheduler.lifecycle import SlotState, SnapshotState, State
from llm_serving_engine.scheduler.request import Priority
from llm_serving_engine.scheduler.step import FOLLOW, Step


class InvariantBroken(AssertionError):
    """The scheduler's data contradict each other: a bug."""


def check(scheduler: Scheduler) -> None:
    """Check a scheduler between two calls. Raises InvariantBroken."""
    _check_slots(scheduler)
    _check_queue(scheduler)
    _check_snapshots(scheduler)
    in_flight = len(scheduler.cache.flights)
    _require(in_flight <= STEPS_MAX, "more steps in flight than the runner takes")


def check_step(scheduler: Scheduler, step: Step) -> None:
    """Check a step that was just planned. Raises InvariantBroken."""
    keys = [run.key for run in step.runs]
    slots = [run.slot for run in step.runs]
    _require(len(set(keys)) == len(keys), "two runs of one key")
    _require(slots == sorted(set(slots)), "runs are not in the order of slots")
    flights = scheduler.cache.flights
    first = flights[0] if len(flights) > 1 else None
    for run in step.runs:
        sequence = scheduler.get(run.key)
        _require(sequence is not None and sequence.slot == run.slot, "a run without its slot")
        assert sequence is not None
        known = sequence.known_tokens
        if run.tokens == (FOLLOW,):
            _require(
                first is not None
                and run.key in {other.key for other in first.runs}
                and run.start == known + first.calls - 1,
                "a run that follows nothing",
            )
        else:
            own = sequence.tokens(run.start, run.end)
            _require(run.tokens == own and run.end <= known, "tokens that are not its own")
        _require(bool(run.output) == (run.end >= known), "an output in the middle of a prompt")
    can = scheduler.capabilities
    _require(1 <= step.calls <= (can.calls_max if step.rows else 1), "too many calls")
    call = can.call_tokens_max
    _require(sum(len(run.tokens) for run in step.runs) <= call, "a call that is too long")


def check_end(scheduler: Scheduler) -> None:
    """Check a scheduler that has nothing left to do. Raises InvariantBroken."""
    _require(scheduler.idle, "requests are left")
    _require(scheduler.cache.in_use == 0, "slots are held")
    _require(not scheduler.cache.snapshots, "snapshots are left")
    left = (len(scheduler.queue), scheduler.queue.load.tokens)
    _require(left == (0, 0), "the queue is not empty")
    _require(not scheduler.policy.service(), "tenants are active")


def _check_slots(scheduler: Scheduler) -> None:
    for slot in scheduler.cache.slots:
        held = slot.state is SlotState.HELD
        _require(held == (slot.sequence is not None), "a slot's state and its sequence differ")
        if slot.sequence is not None:
            _require(slot.sequence.slot == slot.index, "a sequence does not know its slot")
            _require(slot.sequence.state.running, "a slot is held by what does not run")
        if slot.state is SlotState.FREE:
            _require(slot.usable == 0 and slot.retained is None, "a free slot keeps something")
    for sequence in scheduler.live():
        _require(sequence.state.running == (sequence.slot is not None), "running without a slot")
        _require(not sequence.state.ended, "what has ended is alive")


def _check_queue(scheduler: Scheduler) -> None:
    waiting = [s for s in scheduler.live() if s.state is State.WAITING]
    _require(set(waiting) == set(scheduler.queue), "the queue is not what waits")
    tokens = sum(s.request.tokens for s in waiting)
    _require(scheduler.queue.load.tokens == tokens, "the queue's tokens")
    for priority in Priority:
        own = [s.request for s in waiting if s.request.priority is priority]
        load = scheduler.queue.classes[priority]
        counted = (load.requests, load.prompt_tokens, load.tokens)
        sums = (len(own), sum(len(r.prompt) for r in own), sum(r.tokens for r in own))
        _require(counted == sums, f"the load of class {priority.name}")


def _check_snapshots(scheduler: Scheduler) -> None:
    limit = scheduler.config.snapshot_bytes_max
    _require(scheduler.cache.snapshot_bytes <= limit, "snapshots take more than their memory")
    for number, snapshot in scheduler.cache.snapshots.items():
        _require(snapshot.number == number, "a snapshot of another number")
        _require(snapshot.state is not SnapshotState.GONE, "a snapshot that has gone")
        sequence = scheduler.get(snapshot.sequence.key)
        waits = sequence is not None and sequence.state is State.WAITING
        _require(waits, "a snapshot of what does not wait")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InvariantBroken(message)
