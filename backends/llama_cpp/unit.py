"""The unit of prompts: how long chunks are to be, by times of several lengths."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from llm_serving_engine.backends.llama_cpp.tails import SHORT, TILE
from llm_serving_engine.backends.llama_cpp.timed_calls import CallTimer, Times

# Those that are tried deep in a context, and all; the most useful first.
LENGTHS_DEEP = (TILE, 128, 256, 32)
LENGTHS = (*LENGTHS_DEEP, 512)
# How often each is timed at most.
TURNS = 3
# Chunks that fill a context where that was not done before, and how many times the next
# one's seconds must be left.
FILL, FILL_ROOM = (64, 128, 256), 4
# What is slower by less is as fast.
MARGIN = 0.03
# Under batch_invariant every chunk has this length, and streams wait for it.
INVARIANT_LENGTHS = (64, 128, 256)
INVARIANT_SECONDS_MAX = 0.1


def time_lengths(timer: CallTimer, lengths: Collection[int], rows: Iterable[int]) -> Times:
    """Time chunks deep in a context and at its start, as far as there is time.

    They take turns, so a spell in which the machine is slow does not decide.

    Args:
        timer: What it holds is the context, if it holds anything.
        lengths: Of chunks, to choose the unit from.
        rows: Counts of rows, for the costs that the scheduler begins with.
    """
    if not timer.context:
        for size in FILL:
            if timer.affords(FILL_ROOM * size):
                timer.fill(size)
    for count in rows:
        timer.rows(count)
    deep = [(size, False) for size in LENGTHS_DEEP if size in lengths]
    start = [(size, True) for size in lengths]
    calls = [*deep[:2], (TILE, True), (SHORT, True), *deep[2:3], (SHORT, False)]
    calls += [call for call in deep + start if call not in calls]
    for turn in range(TURNS):
        for size, at_start in reversed(calls) if turn % 2 else calls:
            timer.chunk(size, at_start=at_start)
    return timer.close()


def length_seconds(times: Times) -> dict[int, float]:
    """Seconds of a token in chunks of each length.

    A length is compared with a tile in the longest context in which both were timed. At
    the start of a context lengths are nearly equal; most chunks of a long prompt, which
    is where the length counts, are deeper.
    """
    tile = {
        call.context: seconds / TILE
        for call, seconds in times.items()
        if (call.kind, call.size) == ("chunk", TILE)
    }
    ratios: dict[int, float] = {}
    for call in sorted(times, key=lambda call: call.context):
        if call.kind == "chunk" and call.size in LENGTHS and call.context in tile:
            ratios[call.size] = times[call] / call.size / tile[call.context]
    return {size: ratio * sum(tile.values()) / len(tile) for size, ratio in ratios.items()}


def fastest_length(times: Times, batch_invariant: bool) -> int:
    """The shortest length that is within 3 % of the fastest.

    Under batch_invariant only of those that streams can wait for. A tile where there
    was no time.
    """
    seconds = length_seconds(times)
    if batch_invariant:
        seconds = {
            size: s
            for size, s in seconds.items()
            if size == TILE or (size in INVARIANT_LENGTHS and size * s <= INVARIANT_SECONDS_MAX)
        }
    if not seconds:
        return TILE
    limit = min(seconds.values()) * (1 + MARGIN)
    return min(size for size, s in seconds.items() if s <= limit)


def unit_reason(times: Times, unit: int) -> str:
    """The choice, and the speed of each length; empty where only one was timed."""
    if len(length_seconds(times)) < 2:
        return ""
    speeds = ", ".join(f"{n}: {1 / s:.0f}" for n, s in sorted(length_seconds(times).items()))
    return f"prompts in chunks of {unit}: measured tokens/s by length: {speeds}"
