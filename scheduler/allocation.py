"""Slots change hands: admissions, preemptions, trials, and moves, as operations for the runner."""

from __future__ import annotations

from llm_serving_engine.scheduler.admission import Admission
from llm_serving_engine.scheduler.cache import Cache
from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.dispatch import Dispatch
from llm_serving_engine.scheduler.lifecycle import Event, SnapshotEvent
from llm_serving_engine.scheduler.live import LiveRequests
from llm_serving_engine.scheduler.queue import WaitingQueue
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.slots import Outlook
from llm_serving_engine.scheduler.step import Open, Operation


class Allocation:
    """Gives slots to requests, and takes them, by the rules of `Dispatch`."""

    def __init__(
        self,
        live: LiveRequests,
        dispatch: Dispatch,
        queue: WaitingQueue,
        cache: Cache,
        admission: Admission,
        cost: CostModel,
        target: float,
    ) -> None:
        self._live = live
        self._dispatch = dispatch
        self._queue = queue
        self._cache = cache
        self._admission = admission
        self._cost = cost
        self._target = target

    def admit(self, outlook: Outlook, now: float) -> None:
        """Fill the slots: none stays idle while a request can run, trials of suspects aside."""
        if self._live.suspects:
            self._try_suspect(outlook, now)
            return
        self._dispatch.resume(outlook)
        if len(self._queue):
            self._end_hopeless(outlook, now)
        held: set[int] = set()
        highest_held = 0
        while (sequence := self._dispatch.next(outlook, now, held)) is not None:
            aged = sequence is self._dispatch.aged
            if sequence.request.priority < highest_held and not aged:
                return
            victim = None if self._cache.idle() else self._dispatch.victim(sequence)
            if victim is None and not self._cache.idle():
                return
            late = self._admission.too_late(sequence, outlook, now)
            if late is not None:
                self._live.end(sequence, Event.EXPIRE, now, late)
                continue
            if not aged and self._admission.is_held(sequence, outlook, now):
                if sequence.request.deadline is None:
                    return
                held.add(sequence.key)
                highest_held = max(highest_held, sequence.request.priority)
                continue
            if victim is not None:
                self._preempt(victim, outlook, now)
            self._take_slot(sequence, outlook, now)
            # Copies take time too: the rest of them goes with the next step.
            if self._cost.operations(self._live.operations) > self._target / 2:
                return

    def _end_hopeless(self, outlook: Outlook, now: float) -> None:
        """End what runs and cannot be in time any more: others wait."""
        for running in list(self._cache.holders()):
            if self._admission.hopeless(running, outlook, now):
                self._live.expire(running, now)

    def _try_suspect(self, outlook: Outlook, now: float) -> None:
        """Run the suspect that is next, and nothing beside it."""
        suspect = self._live[self._live.suspects.next or 0]
        for passed in [holder for holder in self._cache.holders() if holder is not suspect]:
            self._preempt(passed, outlook, now)
        if suspect.slot is None:
            self._take_slot(suspect, outlook, now)

    def _take_slot(self, sequence: Sequence, outlook: Outlook, now: float) -> None:
        place = self._cache.place(sequence, outlook)
        assert place is not None
        self._queue.remove(sequence)
        self._cache.take(place, sequence)
        operations: list[Operation] = [self._open(sequence)]
        if place.operation is not None:
            operations.append(place.operation)
        operations += self._cache.drop(sequence, SnapshotEvent.RESTORED)
        self._operate(operations, outlook)
        outlook.usable[place.slot.index] = place.tokens
        self._dispatch.admitted(sequence, place.tokens)
        self._live.move(sequence, Event.ADMIT, now)

    def _preempt(self, sequence: Sequence, outlook: Outlook, now: float) -> None:
        assert sequence.slot is not None
        index = sequence.slot
        self._operate(self._cache.save(sequence, outlook, self._target / 4, now), outlook)
        sequence.preemptions += 1
        self._live.tally.preemptions += 1
        self._live.vacate(sequence, Event.PREEMPT, outlook.position(index), now)
        outlook.usable[index] = self._cache.slots[index].usable

    def compact(self, streams: list[Sequence], outlook: Outlook, now: float) -> None:
        """Move one of the streams where that makes rows dense and pays."""
        copy = self._cache.compaction(streams, outlook)
        if copy is not None:
            self._cache.move(copy, now)
            self._operate([copy], outlook)
            outlook.usable[copy.source] = 0
            outlook.usable[copy.target] = copy.tokens

    def _open(self, sequence: Sequence) -> Open:
        request = sequence.request
        return Open(
            sequence.key,
            request.sampling,
            request.stop_tokens,
            request.top_logprobs,
            request.prompt if request.sampling.penalised else (),
            tuple(sequence.output),
            len(request.prompt),
        )

    def _operate(self, operations: list[Operation], outlook: Outlook) -> None:
        self._live.operations += operations
        for operation in operations:
            outlook.add(operation)
