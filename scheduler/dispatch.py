"""Who gets a slot, and who loses one: the rules, and what they make the runner do.

1. Waiting requests are ordered by class, then by the policy.
2. No slot is idle while a request waits that can run. A request is deferred, and cannot
   run, while a sequence of its class or a higher one computes a prefix of it. It is held
   back, and cannot run, while deadlines would be missed (`Admission`).
3. The request that has waited longest, once for `aging_seconds`, gets the next slot
   that falls free, whatever its class; at most one admission in eight.
4. With no slot free, a class takes one from the lowest class below it, the latest
   admission first. Aged and resumed sequences are protected for some tokens, in at
   most half of the slots, rounded up.
"""

from __future__ import annotations

import math

from llm_serving_engine.scheduler.admission import Admission
from llm_serving_engine.scheduler.lifecycle import Event
from llm_serving_engine.scheduler.live import LiveRequests
from llm_serving_engine.scheduler.part import Common, Part
from llm_serving_engine.scheduler.sequence import Sequence

# These two are promises, not tunings: what age may cost others, and what it is worth.
# Admissions of which one at most goes by age.
AGED_SHARE = 8
# Tokens that an aged or resumed sequence produces before it can lose its slot.
PROTECTED_TOKENS = 32


class Dispatch(Part):
    """Gives slots to the requests that wait, and takes them from those that run."""

    def __init__(self, common: Common, live: LiveRequests, admission: Admission) -> None:
        super().__init__(common)
        self._live = live
        self._admission = admission
        self._since_aged = AGED_SHARE

    def urgent(self, now: float) -> int:
        """The highest class of which a request came lately."""
        lately = now - self._config.aging_seconds
        return max((c for c, at in self._live.arrivals.items() if at >= lately), default=0)

    # Who is next

    def first(self, now: float, *, unhurried: bool = False) -> Sequence | None:
        """The request that is next by class and policy.

        Args:
            now: The time.
            unhurried: Whether only requests without deadlines count.
        """
        heads = list(self._queue.heads(self._cache.outlook.keys, unhurried=unhurried))
        failure = self._policy.failure
        order = {s: (-self._level(s), *self._policy.key(s, now)) for s in heads}
        if self._policy.failure != failure:
            # The default policy decides from here on.
            return self.first(now, unhurried=unhurried)
        return min(order, key=order.__getitem__, default=None)

    def _level(self, sequence: Sequence) -> int:
        """The class of a sequence, where classes count."""
        return sequence.request.priority if self._policy.strict_classes else 0

    def _oldest(self, now: float) -> Sequence | None:
        """The request that has waited longest, where a slot is free for it and its age counts."""
        if self._since_aged < AGED_SHARE - 1 or not self._cache.idle_slots():
            return None
        heads = self._queue.heads(self._cache.outlook.keys)
        oldest = min(heads, key=lambda s: s.since, default=None)
        aged = oldest is not None and now - oldest.since > self._config.aging_seconds
        return oldest if aged else None

    def victim(self, waiting: Sequence) -> Sequence | None:
        """The sequence that gives way to a waiting request; None where none does."""
        below = (
            s
            for s in self._cache.holders()
            if self._level(s) < self._level(waiting) and not _protected(s)
        )
        return min(
            below, key=lambda s: (s.request.priority, -_admitted_at(s), -s.key), default=None
        )

    # Slots change hands

    def admit(self, now: float) -> None:
        """Fill the slots: none stays idle while a request can run, trials of suspects aside."""
        if self._live.suspects:
            self._try_suspect(now)
            return
        self._queue.resume(self._cache.computes)
        if len(self._queue):
            self._end_hopeless(now)
        held: Sequence | None = None
        while True:
            aged = self._oldest(now) if held is None else None
            sequence = aged or self.first(now, unhurried=held is not None)
            if sequence is None:
                return
            # No lower class gets a slot while a higher one is held back.
            if held is not None and self._level(sequence) < self._level(held):
                return
            victim = None if self._cache.idle_slots() else self.victim(sequence)
            if victim is None and not self._cache.idle_slots():
                return
            awaited = self._cache.awaited(sequence)
            if awaited is not None:
                self._queue.defer(sequence, awaited)
            elif self._admission.latest_start(sequence) < now:
                self._live.expire(sequence, now)
            elif aged is None and self._admission.holds_back(sequence, now):
                # Only requests without deadlines go before what is held back.
                if held is not None or sequence.request.deadline == math.inf:
                    return
                held = sequence
            else:
                if victim is not None:
                    self._preempt(victim, now)
                self._take_slot(sequence, now, aged=aged is not None)
                held = None
                # Copies take time too: the rest of them goes with the next step.
                if self._cost.operations(self._cache.operations) > self._target / 2:
                    return

    def _end_hopeless(self, now: float) -> None:
        """End what runs and cannot be in time any more: others wait."""
        for running in list(self._cache.holders()):
            if self._admission.latest_start(running) < now:
                self._live.expire(running, now)

    def _try_suspect(self, now: float) -> None:
        """Run the suspect that is next, and nothing beside it."""
        suspect = self._live.by_key[self._live.suspects.suspected[0]]
        for passed in [holder for holder in self._cache.holders() if holder is not suspect]:
            self._preempt(passed, now)
        if suspect.slot is None:
            self._take_slot(suspect, now)

    def _take_slot(self, sequence: Sequence, now: float, *, aged: bool = False) -> None:
        place = self._cache.place(sequence)
        self._queue.remove(sequence)
        self._cache.take(place, sequence)
        self._since_aged = 0 if aged else self._since_aged + 1
        if not sequence.has_run:
            sequence.charged = len(sequence.request.prompt) - place.tokens
            self._policy.served(sequence, sequence.charged, 0)
        protected = sum(map(_protected, self._cache.holders()))
        if (aged or sequence.has_run) and 2 * protected < len(self._cache.slots):
            sequence.protected_until = len(sequence.output) + PROTECTED_TOKENS
        self._live.move(sequence, Event.ADMIT, now)

    def _preempt(self, sequence: Sequence, now: float) -> None:
        self._totals.saves += self._cache.save(sequence, self._target / 4, now)
        self._totals.preemptions += 1
        self._live.vacate(sequence, Event.PREEMPT, self._cache.position(sequence), now)


def _protected(sequence: Sequence) -> bool:
    return len(sequence.output) < sequence.protected_until


def _admitted_at(sequence: Sequence) -> float:
    return next((t.at for t in reversed(sequence.history) if t.event is Event.ADMIT), 0.0)
