"""The unit of prompts: how long chunks are to be, by times of several lengths."""

from __future__ import annotations

import math
from collections.abc import Collection

from llm_serving_engine.backends.llama_cpp.tails import SHORT, TILE
from llm_serving_engine.backends.llama_cpp.timed_calls import Call, CallTimer, Times

LENGTHS = (SHORT, TILE, 128, 256, 512)
# Lengths that are longer than two tiles are tried if two tiles gain more: a call's own cost is
# halved with every doubling, so the others gain less. On one CPU two tiles gain 4 to 7 % in Q4_1,
# where four gain another 2 %, and 10 to 17 % in Q4_0 and Q8_0.
GAIN_MIN = 0.09
# What is slower by less is as fast. In 42 loads, chunks of 512 gained 0 to 2.6 % over those of
# 256, and those of 256 gained 6 to 15 % over those of 128 (Q4_0 and Q8_0).
MARGIN = 0.03
# Lengths that are slower than the fastest by less are timed again, and those that are slower
# than a shorter one by more.
CLOSE, DIP = 0.08, 0.05
# What a tile may be slower by where others took some of the cores, so that times may mislead.
MARGIN_DISTURBED = 0.15
NO_TIME_FOR_LENGTHS = "there was no time to compare lengths"
# Under batch_invariant every chunk has this length, and streams wait for it.
INVARIANT_LENGTHS = (64, 128, 256)
INVARIANT_SECONDS_MAX = 0.1


def time_lengths(timer: CallTimer, lengths: Collection[int], rows: int, depth: int) -> Times:
    """Time chunks deep in a context, those that there is time for.

    Args:
        timer: What it holds is the context, if it holds anything.
        lengths: Of chunks, to choose the unit from.
        rows: How many are timed there, if that was not done: the scheduler's first costs.
        depth: The tokens that the context is filled towards.
    """
    if not timer.context:
        timer.fill(TILE)
    timer.fill(min(timer.fill_room, depth - timer.context))
    if Call("rows", rows, timer.context) not in timer.times:
        timer.rows(rows)
    longer = sorted(size for size in lengths if size > TILE)
    for size in (SHORT, TILE, *longer[:1]):
        timer.chunk(size)
    # A call can take longer than it should, but hardly less. So of the two that decide whether
    # longer ones are tried, the one that may be too slow is timed again.
    if longer and not _gains(timer, longer[0]):
        timer.chunk(longer[0])
    if longer and _gains(timer, longer[0]):
        timer.chunk(TILE)
    if longer and _gains(timer, longer[0]):
        # The longest first: if the time ends, it may be the one that gains most.
        for size in reversed(longer[1:]):
            timer.chunk(size)
        for size in _doubtful(timer.times):
            timer.chunk(size)
    return timer.close()


def _gains(timer: CallTimer, size: int) -> bool:
    """Whether chunks of a length are so much faster than a tile that longer ones may gain too."""
    seconds = length_seconds(timer.times)
    return size in seconds and seconds[size] * (1 + GAIN_MIN) <= seconds[TILE]


def _doubtful(times: Times) -> list[int]:
    """The fastest length, and the shorter ones that are nearly as fast or slower than they may be.

    A longer chunk is rarely slower than a shorter one: something else may have held it up.
    """
    seconds = length_seconds(times)
    fastest = min(seconds, key=lambda size: seconds[size])
    doubtful, shorter = [], math.inf
    for size in sorted(size for size in seconds if size <= fastest):
        near = seconds[size] <= seconds[fastest] * (1 + CLOSE)
        if near or seconds[size] > shorter * (1 + DIP):
            doubtful.append(size)
        shorter = min(shorter, seconds[size])
    return doubtful


def length_seconds(times: Times) -> dict[int, float]:
    """Seconds of a token in chunks of each length, in the longest context of a tile.

    At the start of a context lengths are nearly equal; most chunks of a long prompt, which
    is where the length counts, are deeper. A longer chunk ends deeper, where tokens take
    longer; so its seconds are taken at the middle of the tile, on the line from the chunk that
    filled the context.
    """
    context = max((c.context for c in times if (c.kind, c.size) == ("chunk", TILE)), default=0)
    filling = [
        call for call in times if call.kind == "chunk" and call.size + call.context == context
    ]
    seconds: dict[int, float] = {}
    for call, took in times.items():
        if call.kind == "chunk" and call.size in LENGTHS and call.context == context:
            seconds[call.size] = took / call.size
            for fill in filling:
                at, before = fill.context + fill.size / 2, times[fill] / fill.size
                slope = (seconds[call.size] - before) / (context + call.size / 2 - at)
                seconds[call.size] -= max(slope, 0.0) * (call.size - TILE) / 2
    return seconds


def fastest_length(times: Times, batch_invariant: bool = False, disturbed: bool = False) -> int:
    """The shortest length that is within 3 % of the fastest; a tile where there was no time.

    Args:
        times: Of chunks.
        batch_invariant: Choose only of those that streams can wait for.
        disturbed: Whether others took some of the cores: a tile, the default, then stays
            where it is not much slower than the fastest.
    """
    seconds = length_seconds(times)
    if batch_invariant:
        allowed = (n for n in INVARIANT_LENGTHS if n in seconds)
        seconds = {
            n: seconds[n] for n in allowed if n == TILE or n * seconds[n] <= INVARIANT_SECONDS_MAX
        }
    if not seconds:
        return TILE
    fastest = min(seconds.values())
    if disturbed and seconds.get(TILE, fastest) <= fastest * (1 + MARGIN_DISTURBED):
        return TILE
    limit = fastest * (1 + MARGIN)
    return min(size for size, s in seconds.items() if s <= limit)


def unit_reason(times: Times, unit: int) -> str:
    """The choice, and the speed of each length that was timed."""
    seconds = length_seconds(times)
    speeds = ", ".join(f"{n}: {1 / s:.0f}" for n, s in sorted(seconds.items()))
    measured = f"measured tokens/s by length: {speeds}"
    return f"prompts in chunks of {unit}: {measured if len(seconds) > 1 else NO_TIME_FOR_LENGTHS}"
