"""The requests that are alive: their ends, and what is said of them and to the runner."""

from __future__ import annotations

import itertools
import math

from llm_serving_engine.scheduler.admission import Admission
from llm_serving_engine.scheduler.errors import DeadlinePassed, RequestError
from llm_serving_engine.scheduler.events import Moved, SchedulerEvent
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.part import Common, Part
from llm_serving_engine.scheduler.request import FinishReason, Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition
from llm_serving_engine.scheduler.suspects import Suspects


class LiveRequests(Part):
    """All requests from their arrival to their end.

    Attributes:
        by_key: Those that are alive, by their keys.
        events: What happened, in order.
        suspects: Those that may have killed a runner.
        arrivals: When the newest request of each class came.
    """

    def __init__(self, common: Common, admission: Admission, suspects: Suspects) -> None:
        super().__init__(common)
        self.by_key: dict[int, Sequence] = {}
        self.events: list[SchedulerEvent] = []
        self.suspects = suspects
        self.arrivals: dict[Priority, float] = {}
        self._admission = admission
        # When those with deadlines end as they stand, by key.
        self._deadlines: dict[int, float] = {}
        self._keys = itertools.count(1)

    def arrive(self, request: Request, now: float) -> Sequence:
        """Let a request in that is within the limits. Raises RequestError for another one."""
        sequence = Sequence(request, next(self._keys), [Transition(State.WAITING, now)])
        displaced = self._admission.check(sequence, now)
        if displaced is not None:
            error = self._admission.displaced(displaced.request.priority, now)
            self.end(displaced, Event.FAIL, now, error)
        self.by_key[sequence.key] = sequence
        if request.deadline < math.inf:
            self._deadlines[sequence.key] = self._ends(sequence)
        self.events.append(Moved(sequence, sequence.history[-1]))
        self._policy.submitted(sequence)
        self._queue.add(sequence)
        self.arrivals[request.priority] = now
        return sequence

    def move(self, sequence: Sequence, event: Event, now: float) -> None:
        """Let a sequence change its state."""
        sequence.advance(event, now)
        self.events.append(Moved(sequence, sequence.history[-1]))

    def vacate(self, sequence: Sequence, event: Event, usable: int, now: float) -> None:
        """Let a running sequence wait again; so many of its tokens stay in the slot."""
        self._cache.release(sequence, usable, now)
        self.move(sequence, event, now)
        self._queue.add(sequence)
        if sequence.key in self._deadlines:
            # The next turn, in which its slot is another's, says how long it can wait.
            self._deadlines[sequence.key] = now

    # Ends

    def finish(self, sequence: Sequence, reason: FinishReason, now: float) -> None:
        """End a request successfully."""
        sequence.finish_reason = reason
        self.end(sequence, Event.FINISH, now)

    def end(
        self, sequence: Sequence, event: Event, now: float, error: RequestError | None = None
    ) -> None:
        """End a request: with an error, unless it is finished."""
        sequence.error = error
        self._refund(sequence)
        if sequence.slot is not None:
            self._cache.release(sequence, self._cache.slots[sequence.slot].usable, now)
        else:
            self._queue.remove(sequence)
        self._cache.drop(sequence)
        del self.by_key[sequence.key]
        self._deadlines.pop(sequence.key, None)
        self._admission.ended(sequence)
        self.suspects.left(sequence.key)
        self.move(sequence, event, now)
        self._policy.left(sequence)
        self._totals.outcomes[sequence.state] += 1

    def _refund(self, sequence: Sequence) -> None:
        """Give back what was charged for the part of a prompt that was never computed."""
        rest = min(len(sequence.request.prompt) - sequence.computed, sequence.charged)
        if rest > 0:
            self._policy.served(sequence, -rest, 0)

    def expire_overdue(self, now: float) -> None:
        """End the requests whose deadlines have passed, or that wait and cannot meet them."""
        for _, key in sorted((at, key) for key, at in self._deadlines.items() if at <= now):
            self._deadlines[key] = self._ends(self.by_key[key])
            if self._deadlines[key] <= now:
                self.expire(self.by_key[key], now)

    def _ends(self, sequence: Sequence) -> float:
        """When a request with a deadline ends as it stands: where it waits, it needs some time."""
        if sequence.slot is None:
            return self._admission.latest_start(sequence)
        return sequence.request.deadline

    def expire(self, sequence: Sequence, now: float) -> None:
        """End a request whose deadline has passed, or cannot be met any more."""
        deadline, retry_after = sequence.request.deadline, None
        if sequence.has_run:
            reason, where = DeadlinePassed.RUNNING_TIMEOUT, "before the answer was complete"
        else:
            reason, where = DeadlinePassed.QUEUE_TIMEOUT, "while the request waited in the queue"
            retry_after = self._admission.comes_again(sequence, now)
        passed = "would pass" if now < deadline < math.inf else "passed"
        error = DeadlinePassed(reason, f"the deadline {passed} {where}", retry_after)
        self.end(sequence, Event.EXPIRE, now, error)
