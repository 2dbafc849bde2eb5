"""The unit of prompts: how long chunks are to be, by times of several lengths."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from llm_serving_engine.backends.llama_cpp.attention import FILL
from llm_serving_engine.backends.llama_cpp.tails import SHORT, TILE
from llm_serving_engine.backends.llama_cpp.timed_calls import CallTimer, Times

# From a tile up, as far as longer chunks gain; below a tile where they do not.
LENGTHS = (32, TILE, 128, 256, 512)
# How much context lengths are compared behind: at its start they are nearly equal. It is that of
# the trials of attention, filled as far as there is time for so many tokens afterwards.
DEPTH, FILL_ROOM = sum(FILL), 480
# Longer chunks are tried until so many lengths have gained nothing. With AMX kernels 256
# tokens are as fast as 128, and 512 are faster.
STALLS_MAX = 2
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
    """Time chunks deep in a context, longer ones as long as they gain and there is time.

    Args:
        timer: What it holds is the context, if it holds anything.
        lengths: Of chunks, to choose the unit from.
        rows: Counts of rows, for the costs that the scheduler begins with.
    """
    if not timer.context:
        timer.fill(TILE)
    for size in reversed(FILL[1:]):
        if timer.context + size <= DEPTH and timer.affords(size + FILL_ROOM):
            timer.fill(size)
    timer.chunk(SHORT, at_start=True)
    timer.chunk(SHORT)
    for count in rows:
        timer.rows(count)
    _time_length(timer, TILE)
    stalls = 0
    for size in sorted(size for size in lengths if size > TILE):
        if stalls < STALLS_MAX and not _gains(timer, size):
            stalls += 1
    if fastest_length(timer.times) == TILE:
        for size in lengths:
            if size < TILE:
                _time_length(timer, size)
    return timer.close()


def _gains(timer: CallTimer, size: int) -> bool:
    """Time chunks of a length; whether they are faster than all before.

    A call can take longer than it should, but hardly less: what seems slow is timed again.
    """
    for _ in range(2):
        _time_length(timer, size)
        seconds = length_seconds(timer.times)
        fastest = min((s for length, s in seconds.items() if length != size), default=0.0)
        if size in seconds and seconds[size] * (1 + MARGIN) <= fastest:
            return True
    return False


def _time_length(timer: CallTimer, size: int) -> None:
    timer.chunk(size, at_start=not timer.has_cells(size))


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


def fastest_length(times: Times, batch_invariant: bool = False, disturbed: bool = False) -> int:
    """The shortest length that is within 2 % of the fastest; a tile where there was no time.

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
    """The choice, and the speed of each length; empty where only one was timed."""
    if len(length_seconds(times)) < 2:
        return ""
    speeds = ", ".join(f"{n}: {1 / s:.0f}" for n, s in sorted(length_seconds(times).items()))
    return f"prompts in chunks of {unit}: measured tokens/s by length: {speeds}"
