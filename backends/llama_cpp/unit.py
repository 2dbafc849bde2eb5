"""The unit of prompts: how long chunks are to be, by times of several lengths."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from llm_serving_engine.backends.llama_cpp.tails import SHORT, TILE
from llm_serving_engine.backends.llama_cpp.timed_calls import CallTimer, Times

# Those that are tried behind a context, and all; the most useful first.
LENGTHS_DEEP = (TILE, 128, 256, 32)
LENGTHS = (*LENGTHS_DEEP, 512)
# How often a length is timed at most, and how often the longest is: it takes as long as the
# others. Lengths that are slower than the fastest by more than CONTENDERS are timed twice.
TURNS, TURNS_LONGEST = 5, 2
CONTENDERS = 0.1
# Chunks that fill a context, as far as that was not done before, and how many times the next
# one's seconds must be left.
FILL, FILL_ROOM = (64, 128, 256), 4
# What is slower by less is as fast. A whole prompt of 896 tokens by chunks of 128 takes 1.06
# (Q8_0) and 1.04 (Q4_0) of its time by chunks of 256; the chunks of ten loads differed by 1.01
# to 1.07, and with 0.03 three of the loads chose 128, with 0.02 one.
MARGIN = 0.02
# What a tile may be slower by where others took some of the cores, so that times may mislead.
MARGIN_DISTURBED = 0.15
# Under batch_invariant every chunk has this length, and streams wait for it.
INVARIANT_LENGTHS = (64, 128, 256)
INVARIANT_SECONDS_MAX = 0.1


def time_lengths(timer: CallTimer, lengths: Collection[int], rows: Iterable[int]) -> Times:
    """Time chunks deep in a context and at its start, as far as there is time.

    They take turns, so a spell in which the machine is slow does not decide. Lengths are
    compared behind a context, where there is one. One time of a call can be wrong by more
    than lengths differ, so those that can be the fastest are timed again.

    Args:
        timer: What it holds is the context, if it holds anything.
        lengths: Of chunks, to choose the unit from.
        rows: Counts of rows, for the costs that the scheduler begins with.
    """
    for count, size in enumerate(FILL):
        if timer.context == sum(FILL[:count]) and timer.affords(FILL_ROOM * size):
            timer.fill(size)
    for count in rows:
        timer.rows(count)
    behind = {size: not timer.has_cells(size) for size in LENGTHS_DEEP if size in lengths}
    for turn in range(TURNS):
        calls = list(behind.items())
        if turn == 0:
            calls[2:2] = [(TILE, True), (SHORT, True), (SHORT, False)]
        elif turn == 1:
            calls.reverse()
        else:
            contenders = _contenders(timer.times)
            calls = [call for call in calls if call[0] in contenders]
        for size, at_start in calls:
            timer.chunk(size, at_start=at_start)
    longest = max(lengths)
    for _ in range(TURNS_LONGEST if longest not in behind else 0):
        timer.chunk(longest, at_start=True)
        timer.chunk(TILE, at_start=True)
    return timer.close()


def _contenders(times: Times) -> set[int]:
    """The lengths that can be the fastest."""
    seconds = length_seconds(times)
    limit = min(seconds.values(), default=0.0) * (1 + CONTENDERS)
    return {size for size, s in seconds.items() if s <= limit}


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


def fastest_length(times: Times, batch_invariant: bool, disturbed: bool = False) -> int:
    """The shortest length that is within 2 % of the fastest; a tile where there was no time.

    Args:
        times: Of chunks.
        batch_invariant: Choose only of those that streams can wait for.
        disturbed: Whether others took some of the cores: a tile, the default, then stays
            where it is not much slower than the fastest.
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
    fastest = min(seconds.values())
    if disturbed and seconds.get(TILE, fastest) <= fastest * (1 + MARGIN_DISTURBED):
        return TILE
    limit = fastest * (1 + MARGIN)
    return min(size for size, s in seconds.items() if s <= limit)


def unit_reason(times: Times, unit: int) -> str:
    """The choice, and the speed of each length; empty where only one was timed."""
    if len(length_seconds(times)) < 2:
        return ""
    speeds = ", ".join(f"{n}: {1 / s:.0f}" for n, s in sorted(length_seconds(times).items()))
    return f"prompts in chunks of {unit}: measured tokens/s by length: {speeds}"
