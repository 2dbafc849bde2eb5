"""The runner's slots: who holds them, and what their caches hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llm_serving_engine.scheduler.sequence import Sequence


@dataclass(slots=True, eq=False)
class Slot:
    """One slot.

    Attributes:
        index: Its number.
        holder: The sequence that runs in it.
        left_over: The tokens whose cache a finished sequence left behind.
        prompt_tokens: The length of its holder's prompt, or of the last holder's.
        owner: The tenant and the salt of what is left over.
        used_at: When its last holder left.
    """

    index: int
    holder: Sequence | None = None
    left_over: tuple[int, ...] = ()
    prompt_tokens: int = 0
    owner: tuple[str, str] = ("", "")
    used_at: float = 0.0

    def cached(self) -> tuple[int, ...]:
        """The tokens in its cache, while no step is under way."""
        holder = self.holder
        return self.left_over if holder is None else holder.tokens(0, holder.computed)

    def shared_by(self, owner: tuple[str, str]) -> bool:
        """Whether its cache may be used for somebody."""
        holder = self.holder
        return owner == (self.owner if holder is None else owner_of(holder))


def owner_of(sequence: Sequence) -> tuple[str, str]:
    """Among whom a sequence's cache is shared: its tenant and salt."""
    return sequence.request.tenant, sequence.request.cache_salt


class SlotTable:
    """All slots, by number."""

    def __init__(self, slots: int) -> None:
        self._slots = tuple(Slot(index) for index in range(slots))

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, index: int) -> Slot:
        return self._slots[index]

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    def holders(self) -> Iterator[Sequence]:
        """The sequences that run, in ascending order of their slots."""
        return (slot.holder for slot in self._slots if slot.holder is not None)

    def idle(self) -> list[Slot]:
        """The slots that nobody holds."""
        return [slot for slot in self._slots if slot.holder is None]

    @property
    def in_use(self) -> int:
        """How many slots are held."""
        return sum(1 for _ in self.holders())

    def take(self, slot: Slot, sequence: Sequence) -> None:
        """Give an idle slot to a sequence."""
        if slot.holder is not None:
            raise ValueError(f"slot {slot.index} is held")
        slot.holder, slot.left_over = sequence, ()
        slot.prompt_tokens = len(sequence.request.prompt)
        sequence.slot = slot.index

    def release(self, sequence: Sequence, now: float, *, keep: bool) -> Slot:
        """Free a sequence's slot; `keep` what its cache holds for others to begin with."""
        if sequence.slot is None:
            raise ValueError(f"{sequence.request.id} holds no slot")
        slot = self._slots[sequence.slot]
        slot.left_over = sequence.tokens(0, sequence.computed) if keep else ()
        slot.owner, slot.used_at = owner_of(sequence), now
        slot.holder = sequence.slot = None
        return slot

    def forget(self) -> None:
        """Nothing is left over in any slot: the runner is new."""
        for slot in self._slots:
            slot.left_over = ()
