"""The unit of prompts: how long chunks are to be, by times of several lengths."""

from __future__ import annotations

from collections.abc import Iterable

from llm_serving_engine.backends.llama_cpp.tails import SHORT, TILE
from llm_serving_engine.backends.llama_cpp.timed_calls import CallTimer, Times

# Those that are tried, the most useful first.
LENGTHS = (TILE, 128, 32, 256, 512)
# The context at which chunks are deep.
DEEP = 256
# What is slower by less is as fast.
MARGIN = 0.03
# Under batch_invariant every chunk has this length, and streams wait for it.
INVARIANT_LENGTHS = (64, 128, 256)
INVARIANT_SECONDS_MAX = 0.1


def time_lengths(timer: CallTimer, lengths: Iterable[int], rows: Iterable[int]) -> Times:
    """Time what the chosen attention takes, the most useful first, as far as there is time.

    Args:
        timer: Of an empty context.
        lengths: Of chunks, to choose the unit from.
        rows: Counts of rows, for the costs that the scheduler begins with.
    """
    lengths = list(lengths)
    short = [length for length in lengths if length <= DEEP]
    # The second trial of each counts: the first prepares the buffers.
    tails = (SHORT, TILE, SHORT)
    for size in (*short[:2], *tails, *short[2:]):
        timer.chunk(size)
    if timer.fill(DEEP):
        for size in (*tails, *short[:2]):
            timer.chunk(size)
        for count in rows:
            timer.rows(count)
        for size in short[2:]:
            timer.chunk(size)
        timer.empty()
    for size in lengths[len(short) :]:
        timer.chunk(size)
    return timer.close()


def length_seconds(times: Times) -> dict[int, float]:
    """Seconds of a token in chunks of each length; the mean of start and depth where both are."""
    chunks = {
        call: seconds / call.size
        for call, seconds in times.items()
        if call.kind == "chunk" and call.size in LENGTHS
    }
    start = {call.size: s for call, s in chunks.items() if call.context == 0}
    deep = {call.size: s for call, s in chunks.items() if call.context == DEEP}
    # What was timed at both places is not compared with what was timed at one.
    slower = [deep[size] / start[size] for size in start if size in deep]
    ratio = sum(slower) / len(slower) if slower else 1.0
    return {size: (s + deep.get(size, s * ratio)) / 2 for size, s in start.items()}


def fastest_length(times: Times, batch_invariant: bool) -> int:
    """The shortest length that is within 3 % of the fastest.

    Under batch_invariant only of those that streams can wait for. A tile where there
    was no time.
    """
    seconds = length_seconds(times)
    if batch_invariant:
        calls = {call.size: s for call, s in times.items() if call.kind == "chunk"}
        seconds = {
            size: s
            for size, s in seconds.items()
            if size in INVARIANT_LENGTHS and (size == TILE or calls[size] <= INVARIANT_SECONDS_MAX)
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
