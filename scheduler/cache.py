"""The runner's caches: slots, snapshots, and which sequence goes where."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.lifecycle import (
    SLOT_TRANSITIONS,
    SlotEvent,
    SlotState,
    SnapshotEvent,
    SnapshotState,
    State,
    following,
)
from llm_serving_engine.scheduler.prefix import common_prefix, whole_units
from llm_serving_engine.scheduler.queue import Awaited
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.slots import Outlook, Place, Slot, Snapshot, count_groups
from llm_serving_engine.scheduler.step import (
    Capabilities,
    Close,
    Copy,
    Drop,
    Operation,
    Restore,
    Run,
    Save,
    Step,
    StepResult,
)


class Cache:
    """All slots and snapshots, with the steps and operations that will change them.

    Attributes:
        slots: The runner's.
        snapshots: By their numbers.
        flights: The steps that the runner has, the oldest first.
        operations: What the runner is told with the next step, whatever else it does.
    """

    def __init__(self, can: Capabilities, config: SchedulerConfig, cost: CostModel) -> None:
        self._can, self._config, self._cost = can, config, cost
        self._numbers, self._step_numbers = itertools.count(1), itertools.count(1)
        self.flights: deque[Step] = deque()
        self.operations: list[Operation] = []
        self._outlook: Outlook | None = None
        self.slots = tuple(Slot(index) for index in range(can.slots))
        self.snapshots: dict[int, Snapshot] = {}
        self._rollback = can.context if can.rollback is None else can.rollback
        self._unit = can.chunk if config.determinism == "batch_invariant" else 1

    # What there is

    def holders(self) -> Iterator[Sequence]:
        """The sequences that run, in ascending order of their slots."""
        return (slot.sequence for slot in self.slots if slot.sequence is not None)

    @property
    def outlook(self) -> Outlook:
        """What the slots will hold: derived again after each change."""
        if self._outlook is None:
            self._outlook = Outlook(self.slots, self.flights, self.operations)
        return self._outlook

    def position(self, sequence: Sequence) -> int:
        """Where a sequence that runs goes on, when all that is in flight is done."""
        assert sequence.slot is not None
        return self.outlook.position(sequence.slot)

    def idle_slots(self) -> list[Slot]:
        """The slots in which nothing runs."""
        return [slot for slot in self.slots if slot.sequence is None]

    @property
    def in_use(self) -> int:
        """How many slots are held."""
        return sum(slot.sequence is not None for slot in self.slots)

    @property
    def snapshot_bytes(self) -> int:
        """Memory of all snapshots."""
        return sum(map(self._bytes, self.snapshots.values()))

    # Where a sequence goes

    def match(self, sequence: Sequence) -> tuple[Slot | Snapshot, int] | None:
        """The slot or snapshot with the most tokens that a sequence can begin with.

        At least one token is left to compute, because its logits are needed.
        """
        best: tuple[Slot | Snapshot, int] | None = None
        for source, other, usable, length in self._prefixes():
            tokens = self._shared(sequence, other, usable)
            if tokens > (best[1] if best else 0) and length - tokens <= self._rollback:
                best = source, tokens
        return best

    def place(self, sequence: Sequence) -> Place:
        """The idle slot that costs least, with what a sequence begins with there.

        The slot most of whose tokens it goes on from is that one. Else what counts is the
        prompt's rest, copies, and density.
        """
        source, tokens = self.match(sequence) or (None, 0)
        places: list[Place] = []
        for slot in self.idle_slots():
            if slot is source and 2 * tokens >= slot.usable:
                return Place(slot, tokens)
            places.append(Place(slot))
            if slot is source:
                places.append(Place(slot, tokens))
            elif isinstance(source, Snapshot):
                restore = Restore(slot.index, source.number, source.tokens)
                places.append(Place(slot, tokens, (restore,)))
            elif source is not None and self._can.copy:
                places.append(Place(slot, tokens, (Copy(source.index, slot.index, tokens),)))
        held = [slot.index for slot in self.slots if slot.sequence is not None]
        # Without copies, rows cannot be kept dense.
        group_seconds = self._can.copy * self._cost.rows.weights[0] * sequence.expected_steps

        def price(place: Place) -> tuple[float, tuple[bool, float], int]:
            groups = count_groups(sorted([*held, place.slot.index]))
            seconds = self._seconds_from(place.tokens, sequence) + groups * group_seconds
            seconds += self._cost.operations(place.operations)
            return seconds, place.slot.eviction_order, place.slot.index

        return min(map(self._keeping, places), key=price)

    def awaited(self, sequence: Sequence) -> Awaited | None:
        """What another sequence computes right now of this one's prompt.

        None where waiting for it and copying is not cheaper. Only a sequence of its
        class or a higher one counts.
        """
        if not (self._config.prefix_cache and self._can.copy):
            return None
        match = self.match(sequence)
        best, least = None, match[1] if match else 0
        for donor in self.holders():
            lower = donor.request.priority < sequence.request.priority
            if lower or donor.state is not State.PREFILL:
                continue
            found = Awaited(donor, self._shared(sequence, donor, donor.known_tokens))
            beyond = donor.known_tokens - found.tokens
            if found.tokens <= least or beyond > self._rollback or not self.computes(found):
                continue
            seconds = self._cost.copy_seconds(found.tokens)
            seconds += self._seconds_from(found.tokens, sequence)
            if seconds < self._seconds_from(least, sequence):
                best, least = found, found.tokens
        return best

    def computes(self, awaited: Awaited) -> bool:
        """Whether what a request waits for is still being computed."""
        donor = awaited.donor
        return donor.state is State.PREFILL and self.position(donor) < awaited.tokens

    # What the runner is told, and what it says

    def send(self, runs: tuple[Run, ...], level: int, calls: int) -> Step:
        """The next step: those runs, after the operations that are to be done."""
        step = Step(next(self._step_numbers), tuple(self.operations), runs, level, calls)
        self.flights.append(step)
        self.operations, self._outlook = [], None
        return step

    def landed(self, result: StepResult) -> Step:
        """The oldest step in flight, whose result has come; a recalled one's operations are left.

        Raises RuntimeError where the result is that of another step.
        """
        if not self.flights or self.flights[0].number != result.number:
            raise RuntimeError(f"step {result.number} is not the oldest in flight")
        step = self.flights.popleft()
        if result.recalled:
            self.operations[:0] = step.operations
        self._outlook = None
        return step

    # What happens to slots

    def take(self, place: Place, sequence: Sequence) -> None:
        """Give an idle slot to a sequence, with what it found there or elsewhere."""
        self.operations.append(sequence.opening())
        self._fill(place, sequence)
        self.drop(sequence)

    def release(self, sequence: Sequence, usable: int, now: float) -> None:
        """Free a sequence's slot, and keep so many of its tokens for others to begin with."""
        self._leave(sequence, usable, now)
        self.operations.append(Close(sequence.key))

    def compact(self, rows: list[Sequence], now: float) -> bool:
        """Move a row into a gap between rows, where closing the gap pays.

        Each move makes a gap one slot shorter, so a long gap takes some steps. The highest
        rows move down into it, or the lowest up, whichever are fewer.

        Args:
            rows: The sequences that decode, in ascending order of slots.
            now: The time.
        """
        if not self._can.copy:
            return False
        slots = [sequence.slot for sequence in rows if sequence.slot is not None]
        idle = {slot.index for slot in self.idle_slots()}
        # How many moves close a gap, whether the first or the last row is next, and its slot then.
        closings: list[tuple[int, int, int]] = []
        for below, (low, high) in enumerate(itertools.pairwise(slots), 1):
            gap = range(low + 1, high)
            if gap and idle.issuperset(gap):
                closings.append((min(len(gap), len(slots) - below), -1, gap[0]))
                closings.append((min(len(gap), below), 0, gap[-1]))
        if not closings:
            return False
        moves, end, hole = min(closings, key=lambda closing: closing[0])
        mover, source = rows[end], slots[end]
        tokens = self.position(mover)
        # Several calls in flight may come to fewer tokens than were planned.
        if not 0 < tokens <= mover.known_tokens:
            return False
        gain = self._cost.rows.weights[0] * mover.expected_steps
        place = self._keeping(Place(self.slots[hole], tokens, (Copy(source, hole, tokens),)))
        if gain <= moves * self._cost.operations(place.operations):
            return False
        self._leave(mover, 0, now)
        self._fill(place, mover)
        return True

    def commit(self, run: Run, done: int, failed: bool) -> bool:
        """Take in what a run has done; False where it was refused."""
        slot, self._outlook = self.slots[run.slot], None
        if failed:
            slot.length = 0
            self._empty(slot)
            return True
        if run.start > slot.length:
            return False
        slot.length = run.start + done
        sequence = slot.sequence
        if sequence is not None and sequence.key == run.key:
            slot.usable = slot.length
            sequence.computed = max(sequence.computed, slot.length)
        return True

    def confirm(self, operation: Operation, failed: bool) -> Sequence | None:
        """Take in that an operation is done or failed. Returns the sequence that lost its cache."""
        if isinstance(operation, Save):
            snapshot = self.snapshots.get(operation.snapshot)
            if snapshot is not None and failed:
                self._forget(snapshot)
            elif snapshot is not None:
                snapshot.advance(SnapshotEvent.SAVED)
        elif isinstance(operation, Copy | Restore):
            slot = self.slots[operation.target if isinstance(operation, Copy) else operation.slot]
            slot.length, self._outlook = 0 if failed else operation.tokens, None
            if failed:
                self._empty(slot)
                return slot.sequence
        return None

    def lose(self) -> None:
        """Take in that the runner died, with all that it had; nothing runs any more."""
        self.flights.clear()
        self.operations.clear()
        self._outlook = None
        for slot in self.slots:
            slot.length = 0
            self._empty(slot)
        for snapshot in list(self.snapshots.values()):
            self._forget(snapshot)

    # What happens to snapshots

    def save(self, sequence: Sequence, seconds_max: float, now: float) -> bool:
        """Save the cache of a sequence that loses its slot, where it fits and pays.

        A higher class waits for it, so it must not take longer than `seconds_max`.
        """
        assert sequence.slot is not None
        tokens = min(self.position(sequence), sequence.known_tokens)
        exact = tokens == self.outlook.lengths[sequence.slot]
        seconds = self._cost.operations((Save(sequence.slot, 0, tokens),))
        if not self._can.snapshots or not exact or not tokens:
            return False
        if seconds > min(seconds_max, self._cost.prefill_seconds(0, tokens, self._can.chunk)):
            return False
        snapshot = Snapshot(next(self._numbers), sequence, tokens, now)
        if self._bytes(snapshot) > self._config.snapshot_bytes_max:
            return False
        self.snapshots[snapshot.number] = snapshot
        while self.snapshot_bytes > self._config.snapshot_bytes_max:
            self._drop(min(self.snapshots.values(), key=lambda s: s.last_used))
        self.operations.append(Save(sequence.slot, snapshot.number, tokens))
        return True

    def drop(self, sequence: Sequence) -> None:
        """Drop the snapshots of a sequence that has a slot again, or has ended."""
        for snapshot in [s for s in self.snapshots.values() if s.sequence is sequence]:
            self._drop(snapshot)

    def _drop(self, snapshot: Snapshot) -> None:
        self._forget(snapshot)
        self.operations.append(Drop(snapshot.number))

    def _forget(self, snapshot: Snapshot) -> None:
        snapshot.advance(SnapshotEvent.DROP)
        del self.snapshots[snapshot.number]

    def _bytes(self, snapshot: Snapshot) -> int:
        return snapshot.tokens * self._can.token_bytes + self._can.state_bytes

    # Inside

    def _prefixes(self) -> Iterator[tuple[Slot | Snapshot, Sequence, int, int]]:
        """Yield what holds tokens: whose they are, how many are usable, how many there are."""
        for slot in self.slots:
            sequence, usable = slot.sequence or slot.retained, self.outlook.position(slot.index)
            if sequence is not None and usable:
                yield slot, sequence, usable, self.outlook.lengths[slot.index]
        for one in self.snapshots.values():
            if one.state is SnapshotState.STORED:
                yield one, one.sequence, one.tokens, one.tokens

    def _shared(self, sequence: Sequence, other: Sequence, tokens: int) -> int:
        """How many of another's first tokens a sequence can begin with."""
        own = other.key == sequence.key
        if other.owner != sequence.owner or not (own or self._config.prefix_cache):
            return 0
        needed = sequence.tokens(0, sequence.known_tokens - 1)
        common = common_prefix(needed, other.tokens(0, tokens))
        prompts = len(sequence.request.prompt), len(other.request.prompt)
        return common if own else whole_units(common, self._unit, prompts)

    def _seconds_from(self, tokens: int, sequence: Sequence) -> float:
        """Seconds to compute a sequence where it has so many tokens."""
        return self._cost.prefill_seconds(tokens, sequence.known_tokens, self._can.chunk)

    def _keeping(self, place: Place) -> Place:
        """A place, with the copy that keeps what its slot retains, where that pays.

        What is lost instead is what was used longest ago.
        """
        slot, used = place.slot, 0 if place.operations else place.tokens
        if not (self._can.copy and self._config.prefix_cache and slot.usable > 2 * used):
            return place
        sources = [one.source for one in place.operations if isinstance(one, Copy)]
        others = (one for one in self.idle_slots() if one.index not in sources)
        oldest = min(others, key=lambda one: one.eviction_order)
        again = self._cost.prefill_seconds(0, slot.usable, self._can.chunk)
        keep = Copy(slot.index, oldest.index, self.outlook.position(slot.index))
        if oldest.eviction_order >= slot.eviction_order or again <= self._cost.operations((keep,)):
            return place
        return place._replace(operations=(keep, *place.operations))

    def _fill(self, place: Place, sequence: Sequence) -> None:
        slot = place.slot
        for one in place.operations:
            if isinstance(one, Copy) and one.source == slot.index and slot.retained:
                kept = self.slots[one.target]
                self._retain(kept, slot.retained, one.tokens, slot.last_used)
        self.operations += place.operations
        slot.state = following(SLOT_TRANSITIONS, slot.state, SlotEvent.TAKE)
        slot.sequence, slot.retained, slot.usable = sequence, None, place.tokens
        sequence.slot, self._outlook = slot.index, None

    def _leave(self, sequence: Sequence, usable: int, now: float) -> None:
        assert sequence.slot is not None
        slot = self.slots[sequence.slot]
        slot.sequence = sequence.slot = None
        # An error is not kept: its traceback would keep all that its caller had.
        retained = replace(sequence, error=None)
        self._retain(slot, retained, min(usable, sequence.known_tokens), now)

    def _retain(self, slot: Slot, sequence: Sequence, usable: int, last_used: float) -> None:
        slot.state = following(SLOT_TRANSITIONS, slot.state, SlotEvent.RETAIN)
        slot.retained, slot.usable, slot.last_used = sequence, usable, last_used
        self._outlook = None
        if not usable:
            self._empty(slot)

    @staticmethod
    def _empty(slot: Slot) -> None:
        """Take in that nothing in a slot is of use."""
        slot.usable = 0
        if slot.state is SlotState.RETAINED:
            slot.retained = None
            slot.state = following(SLOT_TRANSITIONS, slot.state, SlotEvent.EVICT)
