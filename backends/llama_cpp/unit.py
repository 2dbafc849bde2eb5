"""The unit of prompts: how long chunks are to be, by times of several lengths."""

from __future__ import annotations

from collections.abc import Collection
from statistics import fmean, linear_regression

from llm_serving_engine.backends.llama_cpp.tails import SHORT, TILE
from llm_serving_engine.backends.llama_cpp.timed_calls import Call, CallTimer, Times

LENGTHS = (SHORT, TILE, 128, 256, 512)
# What passes between two chunks of a prompt: 1.5 to 2.2 ms, most of it in the runner's `send`.
STEP_SECONDS = 0.002
# A prompt of 65 to 128 tokens is not cut in two, though two tiles may be as fast: 105 tokens take
# 93 and 115 ms in one call, and 119 and 122 ms in two (library_alone.py, with AMX).
LEAST = 2 * TILE
# What is slower by less is as fast.
MARGIN = 0.03
# What a longer chunk may be slower by than a shorter one: if more, something held it up.
DIP = 0.08
# What a tile may be slower by where others took some of the cores, so that times may mislead.
MARGIN_DISTURBED = 0.15
NO_TIME_FOR_LENGTHS = "there was no time to compare lengths"
# Under batch_invariant every chunk has this length, and streams wait for it.
INVARIANT_LENGTHS = (64, 128, 256)
INVARIANT_SECONDS_MAX = 0.1


def time_lengths(timer: CallTimer, lengths: Collection[int], rows: int, depth: int) -> Times:
    """Time chunks deep in a context, those that there is time for.

    Longer ones are not timed: the chunk that fills the context says what they take.

    Args:
        timer: What it holds is the context, if it holds anything.
        lengths: Of chunks, to choose the unit from.
        rows: How many are timed there, if that was not done: the scheduler's first costs.
        depth: The tokens that the context is filled towards.
    """
    # A call can take longer than it should, but hardly less: of the tile, which is compared with
    # all others, the faster of two counts.
    sizes: tuple[int, ...] = (SHORT, TILE, 2 * TILE, TILE)
    if not timer.context and timer.fill_room < 3 * TILE:
        # Of a large model, the start of a context says more than little depth and one length.
        sizes = (TILE, 2 * TILE, TILE, SHORT)
    else:
        if not timer.context:
            timer.fill(TILE)
        timer.fill(min(timer.fill_room, depth - timer.context))
        if Call("rows", rows, timer.context) not in timer.times:
            timer.rows(rows)
    for size in sizes:
        if size in lengths:
            timer.chunk(size)
    return timer.close()


def length_seconds(times: Times) -> dict[int, float]:
    """Seconds of a token in chunks of each length, in the longest context of a tile.

    At the start of a context lengths are nearly equal; most chunks of a long prompt, which
    is where the length counts, are deeper. Deeper tokens take longer, so seconds are taken
    at the middle of a tile, by what its tokens take more there than at the start.

    A call has a cost of its own, which its tokens share: their seconds are a line over
    1 / length. Any call may be held up, so the line counts that is nearest to all of them and
    to the chunk that filled the context; no length is longer than the longest of these.
    Lengths below a tile have other kernels, and their own time.
    """
    chunks = {call: took for call, took in times.items() if call.kind == "chunk"}
    context = max((call.context for call in chunks if call.size == TILE), default=0)
    start, deep = (chunks.get(Call("chunk", TILE, at), 0.0) / TILE for at in (0, context))
    growth = max(deep - start, 0.0) / context if start and context else 0.0
    seconds: dict[int, float] = {}
    for call, took in chunks.items():
        if context in (call.context, call.context + call.size):
            deeper = call.context + (call.size - TILE) / 2 - context
            of_a_token = took / call.size - growth * deeper
            # Below 0, the tile was held up so much that nothing can be said.
            if of_a_token > 0:
                seconds[call.size] = min(of_a_token, seconds.get(call.size, of_a_token))
    tiles = _on_a_line({n: s for n, s in seconds.items() if n >= TILE})
    return {SHORT: seconds[SHORT], **tiles} if SHORT in seconds else tiles


def _on_a_line(seconds: dict[int, float]) -> dict[int, float]:
    """What a call's cost and a token's come to, by least squares, at each length up to the last."""
    seconds = {
        n: took
        for n, took in seconds.items()
        if took <= min(s for shorter, s in seconds.items() if shorter <= n) * (1 + DIP)
    }
    if len(seconds) < 2:
        return seconds
    call, token = linear_regression([1 / n for n in seconds], list(seconds.values()))
    if call <= 0 or token <= 0:
        call, token = 0.0, fmean(seconds.values())
    return {n: token + call / n for n in LENGTHS if TILE <= n <= max(seconds)}


def fastest_length(times: Times, batch_invariant: bool = False, disturbed: bool = False) -> int:
    """The shortest length, of two tiles or more, that is within 3 % of the fastest.

    A tile where there was no time, and under batch_invariant where it is as fast.

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
    seconds = {n: s + STEP_SECONDS / n for n, s in seconds.items() if n >= TILE}
    if not seconds:
        return TILE
    fastest = min(seconds.values())
    if disturbed and seconds.get(TILE, fastest) <= fastest * (1 + MARGIN_DISTURBED):
        return TILE
    least = LEAST if LEAST in seconds and not batch_invariant else TILE
    limit = fastest * (1 + MARGIN)
    # On a line, no shorter length is faster.
    return min(size for size, s in seconds.items() if s <= limit and size >= least)


def lengths_compared(times: Times) -> bool:
    """Whether there was time for two lengths, of a tile or more."""
    return sum(n >= TILE for n in length_seconds(times)) > 1


def unit_reason(times: Times, unit: int) -> str:
    """The choice, and the speed of each length that was timed."""
    seconds = length_seconds(times)
    speeds = ", ".join(f"{n}: {1 / s:.0f}" for n, s in sorted(seconds.items()))
    measured = f"measured tokens/s by length: {speeds}"
    why = measured if lengths_compared(times) else NO_TIME_FOR_LENGTHS
    return f"prompts in chunks of {unit}: {why}"
