"""Rows of no meaning, computed beside others and dropped afterwards.

llama.cpp computes a run of consecutive slots as one batch, and every run goes
through all of the weights. A small hole between two runs costs less when it is
filled than as a reason for a second batch.

The matrix kernels take four rows at a time, and what is left over one by one, which
costs more than a fourth.

A batch of a single row that looks at many cells is split between the threads,
and adds up in another order than the same row does beside others: its bits
differ. Company keeps them the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from llm_serving_engine.scheduler.step import DecodeRow

# What the hole's rows take is less than what a second batch does.
HOLE_MAX = 2
ROWS_MIN = 4
# Of the matrix kernels. Three rows alone are as fast as four.
TILE_ROWS = 4
# A row makes all rows of its batch look at as many cells as it does, by so many.
CELLS_UNIT = 256

# The split begins at 512 cells in view, and cells come into view by 256.
ALONE_UP_TO = 255


def fill_holes(
    rows: Sequence[DecodeRow], room: Callable[[int], int | None]
) -> tuple[DecodeRow, ...]:
    """The rows, and more of them in the small holes between, in ascending order of slots.

    Args:
        rows: In ascending order of slots.
        room: The position after the last of a slot's cache; None where it is full.
    """
    if len(rows) < ROWS_MIN:
        return tuple(rows)
    cells = max(row.position for row in rows) // CELLS_UNIT
    filled = [rows[0]]
    for before, after in itertools.pairwise(rows):
        hole = range(before.slot + 1, after.slot)
        if 0 < len(hole) <= HOLE_MAX:
            positions = [room(slot) for slot in hole]
            if all(at is not None and at // CELLS_UNIT <= cells for at in positions):
                filled += (
                    DecodeRow(slot, at or 0, 0) for slot, at in zip(hole, positions, strict=True)
                )
        filled.append(after)
    return tuple(filled)


def complete_tiles(
    rows: Sequence[DecodeRow], slots: int, room: Callable[[int], int | None]
) -> tuple[DecodeRow, ...]:
    """The rows, and one more beside each run that lacks one; see `add_company`."""
    completed = {row.slot: row for row in rows}
    for run in _runs(rows):
        if len(run) > TILE_ROWS and len(run) % TILE_ROWS == TILE_ROWS - 1:
            cells = max(row.position for row in run) // CELLS_UNIT
            for slot in (run[-1].slot + 1, run[0].slot - 1):
                free = 0 <= slot < slots and slot not in completed
                position = room(slot) if free else None
                if position is not None and position // CELLS_UNIT <= cells:
                    completed[slot] = DecodeRow(slot, position, 0)
                    break
    return tuple(sorted(completed.values()))


def _runs(rows: Sequence[DecodeRow]) -> list[list[DecodeRow]]:
    numbered = enumerate(rows)
    runs = itertools.groupby(numbered, key=lambda item: item[1].slot - item[0])
    return [[row for _, row in run] for _, run in runs]


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
