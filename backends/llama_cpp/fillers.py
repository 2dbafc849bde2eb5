"""Filler rows: padding beside the rows of a call; their results are discarded.

llama.cpp computes a run of consecutive slots as one batch.

The matrix kernels take sixteen rows at a time, then four, and the rest one by one: a row
of the rest costs more than a fourth of four, and sixteen cost no more than thirteen. Those
of AMX take any number up to sixteen at once, so fillers gain nothing there.

A batch of a single row that looks at many cells is split between the threads, and
adds up in another order than the same row does beside others: its bits differ. A
filler beside it keeps them the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterator, Sequence

from llm_serving_engine.backends.backend import AMX, REPACK
from llm_serving_engine.backends.llama_cpp.part import FILLER, Part

# Tiles of the matrix kernels, and the most fillers that complete a large one.
# `docs/performance/experiments.md`, "Whole tiles", has the time of each number of rows.
TILE_ROWS, LARGE_TILE_ROWS, LARGE_TILE_FILLERS = 4, 16, 3
# A row makes all rows of its batch look at as many cells as it does, by so many.
CELLS_UNIT = 256

# The split begins at 512 cells in view, and cells come into view by 256.
ALONE_UP_TO = 255

Room = Callable[[int], int | None]
"""The position at which a slot can take a filler; None where it cannot."""


def with_fillers(
    rows: Sequence[Part], slots: int, room: Room, *, kernels: str, invariant: bool
) -> list[Part]:
    """Rows, and the fillers that make their call faster, or keep their bits.

    Args:
        rows: Of one token each, in ascending order of slots.
        slots: How many slots there are.
        room: Where fillers can be put.
        kernels: The kind: three rows take longer than four where weights are repacked.
        invariant: Whether a row's bits must not depend on the rows beside it.
    """
    filled = complete_tiles(rows, slots, room, kernels)
    return add_neighbours(filled, slots, room) if invariant else filled


def complete_tiles(rows: Sequence[Part], slots: int, room: Room, kernels: str) -> list[Part]:
    """The rows, and fillers beside each run of rows that lacks a few for whole tiles."""
    completed = {row.slot: row for row in rows}
    for run in _runs(rows):
        lacking = _lacking(len(run), kernels)
        fillers = list(itertools.islice(_fillers_beside(run, completed, slots, room), lacking))
        if len(fillers) == lacking:
            completed.update((filler.slot, filler) for filler in fillers)
    return sorted(completed.values())


def _lacking(rows: int, kernels: str) -> int:
    """How many fillers make a run of rows faster."""
    if kernels == AMX:
        return 0
    if 0 < -rows % LARGE_TILE_ROWS <= LARGE_TILE_FILLERS:
        return -rows % LARGE_TILE_ROWS
    return int(-rows % TILE_ROWS == 1 and (rows > TILE_ROWS or kernels == REPACK))


def _fillers_beside(
    run: Sequence[Part], taken: Container[int], slots: int, room: Room
) -> Iterator[Part]:
    """Fillers that stand after a run and before it, without a gap."""
    cells = max(row.start for row in run) // CELLS_UNIT
    for beside in (range(run[-1].slot + 1, slots), range(run[0].slot - 1, -1, -1)):
        for slot in beside:
            filler = None if slot in taken else _filler(slot, room)
            if filler is None or filler.start // CELLS_UNIT > cells:
                break
            yield filler


def add_neighbours(rows: Sequence[Part], slots: int, room: Room) -> list[Part]:
    """The rows, and a filler beside each that would be computed in another way alone."""
    used = {row.slot for row in rows}
    fillers = []
    for row in rows:
        alone = not {row.slot - 1, row.slot + 1} & used
        if not alone or row.start < ALONE_UP_TO:
            continue
        for slot in (row.slot + 1, row.slot - 1):
            filler = _filler(slot, room) if 0 <= slot < slots else None
            if filler is not None:
                fillers.append(filler)
                used.add(slot)
                break
    return sorted((*rows, *fillers))


def _filler(slot: int, room: Room) -> Part | None:
    position = room(slot)
    return None if position is None else Part(slot, position, FILLER, wanted=False)


def _runs(rows: Sequence[Part]) -> list[list[Part]]:
    numbered = enumerate(rows)
    runs = itertools.groupby(numbered, key=lambda item: item[1].slot - item[0])
    return [[row for _, row in run] for _, run in runs]
