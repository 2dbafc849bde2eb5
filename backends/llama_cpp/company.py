"""Company for rows that would be computed alone.

llama.cpp computes a run of consecutive slots as one batch. A batch of a single
row that looks at many cells is split between the threads, and adds up in
another order than the same row does beside others: its bits differ. A row of
no meaning in the next slot, dropped afterwards, keeps them the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llm_serving_engine.scheduler.step import DecodeRow

# The split begins at 512 cells in view, and cells come into view by 256.
ALONE_UP_TO = 255


def add_company(
    rows: Sequence[DecodeRow], slots: int, room: Callable[[int], int | None]
) -> tuple[DecodeRow, ...]:
    """The rows with company for those that need it, in ascending order of slots.

    Args:
        rows: In ascending order of slots.
        slots: How many slots there are.
        room: The position after the last of a slot's cache; None where it is full.
    """
    used = {row.slot for row in rows}
    company = []
    for row in rows:
        alone = not {row.slot - 1, row.slot + 1} & used
        if not alone or row.position < ALONE_UP_TO:
            continue
        for slot in (row.slot + 1, row.slot - 1):
            position = room(slot) if 0 <= slot < slots else None
            if position is not None:
                company.append(DecodeRow(slot, position, 0))
                used.add(slot)
                break
    return tuple(sorted((*rows, *company)))
