"""Which slot a sequence gets, and with what of its prompt already in it."""

from __future__ import annotations

from typing import NamedTuple

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.cost import CostModel, count_runs
from llm_serving_engine.scheduler.prefix import Match, best_donor, longest_match
from llm_serving_engine.scheduler.reuse import ReuseChance
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.slots import Slot, SlotTable
from llm_serving_engine.scheduler.step import (
    CacheOperation,
    Capabilities,
    ClearSlot,
    RestoreSlot,
)

# A move must pay this many times over, as how long a sequence goes on is a guess.
MOVE_GAIN = 2.0
# Of the tokens that a sequence may still produce, how many it is expected to.
EXPECTED_REST = 0.5


class Place(NamedTuple):
    """Where a sequence goes.

    Attributes:
        slot: An idle slot.
        tokens: What is in its cache of the sequence after `operations`.
        operations: What makes it so.
        sharing: Whether more of it is to be copied from another slot.
        donor: Who is still computing that, or None.
        shared: How much that will be.
    """

    slot: Slot
    tokens: int
    operations: tuple[CacheOperation, ...]
    sharing: bool = False
    donor: Sequence | None = None
    shared: int = 0


class Move(NamedTuple):
    """A running sequence goes to another slot."""

    sequence: Sequence
    target: Slot


class Placement:
    """Weighs prefixes that are cached against rows that are dense."""

    def __init__(
        self,
        slots: SlotTable,
        capabilities: Capabilities,
        config: SchedulerConfig,
        cost: CostModel,
    ) -> None:
        self._slots = slots
        self._config = config
        self._cost = cost
        self._reuse = ReuseChance()
        self._can_copy = capabilities.prefix_copy
        self._reuses = config.prefix_cache and capabilities.partial_clear
        invariant = config.determinism == "batch_invariant"
        self._unit = capabilities.prefill_unit if invariant else 1

    def place(self, sequence: Sequence) -> Place | None:
        """The best place for a sequence; None where no slot is idle."""
        idle = self._slots.idle()
        if not idle:
            return None
        if sequence.saved is not None:
            slot = self._cheapest(idle, sequence)
            restore = RestoreSlot(slot.index, sequence.saved.key)
            return Place(slot, sequence.saved.tokens, (restore,))
        match = self.match(sequence)
        place = self._with_prefix(sequence, idle, match)
        self._learn(place.slot, match)
        return self._with_donor(sequence, place)

    def match(self, sequence: Sequence) -> Match | None:
        """The longest prefix in any slot that is worth to be copied."""
        if not self._reuses:
            return None
        match = longest_match(sequence, self._slots, self._unit)
        if match is None or match.tokens < max(self._config.prefix_tokens_min, 1):
            return None
        return match

    def compaction(self, running: list[Sequence]) -> Move | None:
        """The move that makes rows dense, where it pays.

        Args:
            running: The sequences that decode, in the order of their slots.
        """
        if not (self._config.compaction and self._can_copy) or not running:
            return None
        slots = [sequence.slot for sequence in running if sequence.slot is not None]
        moving, occupied = running[-1], set(slots[:-1])
        runs = count_runs(slots)
        targets = [slot for slot in self._slots.idle() if slot.index < slots[-1]]
        if runs == 1 or not targets:
            return None

        def saved_runs(slot: Slot) -> int:
            return runs - count_runs(sorted(occupied | {slot.index}))

        target = max(targets, key=lambda slot: (saved_runs(slot), -self._value(slot)))
        gain = saved_runs(target) * self._cost.cost.runs * self._expected_steps(moving)
        price = self._cost.cost.copies + self._value(target)
        return Move(moving, target) if gain > MOVE_GAIN * price else None

    def _with_prefix(self, sequence: Sequence, idle: list[Slot], match: Match | None) -> Place:
        if match is None:
            slot = self._cheapest(idle, sequence)
            return Place(slot, 0, (ClearSlot(slot.index),))
        others = [slot for slot in idle if slot is not match.slot]
        if match.slot.holder is None and (
            not others or not self._can_copy or 2 * match.tokens >= len(match.slot.left_over)
        ):
            # Most of what is there is used, or there is nowhere else to go.
            clear = ClearSlot(match.slot.index, match.tokens)
            return Place(match.slot, match.tokens, (clear,))
        slot = self._cheapest(others, sequence)
        shared = match.tokens if self._can_copy else 0
        return Place(slot, 0, (ClearSlot(slot.index),), sharing=self._can_copy, shared=shared)

    def _learn(self, taken: Slot, match: Match | None) -> None:
        """Take in what becomes of what was left over."""
        if match is not None and match.slot.holder is None:
            self._reuse.learn(used=True)
        if taken.left_over and (match is None or match.slot is not taken):
            self._reuse.learn(used=False)

    def _with_donor(self, sequence: Sequence, place: Place) -> Place:
        """Wait for another's prompt, where copying it is faster than computing it too."""
        if not (self._reuses and self._can_copy):
            return place
        found = best_donor(sequence, self._slots.holders(), self._unit)
        if found is None:
            return place
        donor, shared = found
        more = shared - max(place.tokens, place.shared)
        if more < max(self._config.prefix_tokens_min, 1):
            return place
        # One machine computes both: its own prefill would come on top of the donor's.
        computing = self._cost.prefill_seconds(more, place.tokens)
        if self._cost.cost.copies >= computing:
            return place
        return place._replace(sharing=True, donor=donor, shared=shared)

    def _cheapest(self, idle: list[Slot], sequence: Sequence) -> Slot:
        """An idle slot, by what is lost with it and what it costs in density.

        What was left over long ago is asked for less often than what is new.
        """
        by_age = sorted((slot for slot in idle if slot.left_over), key=lambda s: s.used_at)
        freshness = {slot: (age + 1) / len(by_age) for age, slot in enumerate(by_age)}
        held = {holder.slot for holder in self._slots.holders() if holder.slot is not None}
        runs = count_runs(sorted(held))
        steps = self._expected_steps(sequence)

        def price(slot: Slot) -> tuple[float, float, int]:
            more_runs = count_runs(sorted(held | {slot.index})) - runs
            lost = self._value(slot) * freshness.get(slot, 0.0)
            return lost + more_runs * self._cost.cost.runs * steps, slot.used_at, slot.index

        return min(idle, key=price)

    def _value(self, slot: Slot) -> float:
        """Seconds that are expected to be lost with what is left over in a slot."""
        if not self._reuses:
            return 0.0
        return self._reuse.value * self._cost.prefill_seconds(len(slot.left_over))

    @staticmethod
    def _expected_steps(sequence: Sequence) -> float:
        return EXPECTED_REST * (sequence.request.max_tokens - len(sequence.output))
