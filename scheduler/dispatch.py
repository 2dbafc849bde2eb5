"""Who gets a slot next, and who loses one.

1. Waiting requests are ordered by class, then by the policy.
2. No slot is idle while a request waits that can run. A request cannot run while it is
   held back for deadlines (`Admission`). It is deferred, and cannot run, while a
   sequence of its class or a higher one computes a prefix of it.
3. The request that has waited longest, once for `aging_seconds`, gets the next slot
   that falls free, whatever its class; at most one admission in eight.
4. With no slot free, a class takes one from the lowest class below it, the latest
   admission first. Aged and resumed sequences are protected for some tokens, in at
   most half of the slots.
"""

from __future__ import annotations

from llm_serving_engine.scheduler.cache import Cache
from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.policy import Policy
from llm_serving_engine.scheduler.queue import Awaited, WaitingQueue
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.slots import Outlook

# Admissions of which one at most goes by age.
AGED_SHARE = 8
# Tokens that an aged or resumed sequence produces before it can lose its slot.
PROTECTED_TOKENS = 32


class Dispatch:
    """Chooses among the requests that wait and those that run.

    Attributes:
        policy: Who goes first within a class.
        aged: The request that goes next because of its age.
    """

    def __init__(
        self, policy: Policy, config: SchedulerConfig, queue: WaitingQueue, cache: Cache
    ) -> None:
        self.policy = policy
        self._policy_failure = ""
        self._config = config
        self._queue = queue
        self._cache = cache
        self._since_aged = AGED_SHARE
        self.aged: Sequence | None = None
        self._arrivals: dict[int, float] = {}

    def submitted(self, sequence: Sequence, now: float) -> None:
        """Let a new sequence wait."""
        self.policy.submitted(sequence)
        self._queue.add(sequence, self.policy.line(sequence))
        self._arrivals[sequence.request.priority] = now

    # Who gets a slot

    def urgent(self, now: float) -> int:
        """The highest class of which a request came lately."""
        recent = (c for c, at in self._arrivals.items() if now - at <= self._config.aging_seconds)
        return max(recent, default=0)

    def resume(self, outlook: Outlook) -> None:
        """End the deferral of those whose prefix is not being computed any more."""

        def computing(awaited: Awaited) -> bool:
            slot = awaited.donor.slot
            prefill = awaited.donor.state is State.PREFILL and slot is not None
            return prefill and outlook.position(slot or 0) < awaited.tokens

        self._queue.resume(computing, self.policy.line)

    def first(self, now: float, busy: frozenset[int] | set[int] = frozenset()) -> Sequence | None:
        """The request that is next by class and policy, but for keys that are busy."""
        heads = [head for head in self._queue.heads() if head.key not in busy]
        keys = {head: self.policy.key(head, now) for head in heads}
        if self.policy.failure != self._policy_failure:
            # Another policy decides from here on, by lines of its own.
            self._policy_failure = self.policy.failure
            self._queue.reorder(self.policy.line)
            return self.first(now, busy)
        strict = self.policy.strict_classes
        order = {s: (-s.request.priority if strict else 0, *keys[s]) for s in heads}
        return min(order, key=order.__getitem__, default=None)

    def next(self, outlook: Outlook, now: float, held: set[int]) -> Sequence | None:
        """The request that gets the next slot; None where none can run.

        Args:
            outlook: What the slots will hold.
            now: The time.
            held: Keys of requests that are held back.
        """
        busy = outlook.keys | held
        while (first := self.first(now, busy)) is not None:
            self.aged = self._oldest(now, busy) if self._cache.idle() else None
            chosen = self.aged or first
            awaited = self._cache.awaited(chosen, outlook)
            if awaited is None:
                return chosen
            self._queue.defer(chosen, awaited)
        return None

    def _oldest(self, now: float, busy: set[int]) -> Sequence | None:
        """The request that has waited longest, where its age counts."""
        if self._since_aged < AGED_SHARE - 1:
            return None
        heads = (head for head in self._queue.heads() if head.key not in busy)
        oldest = min(heads, key=lambda s: s.since)
        return oldest if now - oldest.since > self._config.aging_seconds else None

    def admitted(self, sequence: Sequence, cached: int) -> None:
        """Take in that a sequence gets a slot, in which so many of its tokens are cached."""
        aged = sequence is self.aged
        self._since_aged = 0 if aged else self._since_aged + 1
        if not sequence.has_run:
            self.policy.served(sequence, len(sequence.request.prompt) - cached, 0)
        if (aged or sequence.has_run) and 2 * self._protected() < len(self._cache.slots):
            sequence.protected_until = len(sequence.output) + PROTECTED_TOKENS

    # Who loses one

    def victim(self, waiting: Sequence) -> Sequence | None:
        """The sequence that gives way to a waiting request; None where none does."""
        if not self.policy.strict_classes:
            return None
        below = (
            s
            for s in self._cache.holders()
            if s.request.priority < waiting.request.priority and not _protected(s)
        )
        return min(
            below, key=lambda s: (s.request.priority, -_admitted_at(s), -s.key), default=None
        )

    def _protected(self) -> int:
        return sum(map(_protected, self._cache.holders()))


def _protected(sequence: Sequence) -> bool:
    return len(sequence.output) < sequence.protected_until


def _admitted_at(sequence: Sequence) -> float:
    return next((t.at for t in reversed(sequence.history) if t.event is Event.ADMIT), 0.0)
