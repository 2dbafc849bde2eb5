"""Which sequence holds which of the runner's slots."""

from __future__ import annotations

from collections.abc import Iterator

from llm_serving_engine.scheduler.sequence import Sequence


class SlotTable:
    """A fixed number of slots; the lowest free one is taken first.

    Low slots first keeps decode rows dense, which is what makes a batch cheap:
    llama.cpp batches only runs of consecutive slots.
    """

    def __init__(self, slots: int) -> None:
        self._holders: list[Sequence | None] = [None] * slots

    def __len__(self) -> int:
        return len(self._holders)

    def __getitem__(self, slot: int) -> Sequence | None:
        return self._holders[slot]

    def __iter__(self) -> Iterator[Sequence]:
        """The sequences that hold a slot, in ascending order of slots."""
        return (holder for holder in self._holders if holder is not None)

    @property
    def in_use(self) -> int:
        """How many slots are taken."""
        return len(self._holders) - self._holders.count(None)

    @property
    def full(self) -> bool:
        """Whether no slot is free."""
        return None not in self._holders

    def take(self, sequence: Sequence) -> int:
        """Give the lowest free slot to a sequence. Raises ValueError where there is none."""
        slot = self._holders.index(None)
        self._holders[slot] = sequence
        sequence.slot = slot
        return slot

    def release(self, sequence: Sequence) -> None:
        """Free a sequence's slot."""
        if sequence.slot is None:
            raise ValueError(f"{sequence.request.id} holds no slot")
        self._holders[sequence.slot] = None
        sequence.slot = None
