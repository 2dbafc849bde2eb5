"""Kinds of attention, timed and compared by one mix of calls.

The mix is a chat: a prompt of 400 tokens and 150 tokens of output, while half of the
slots are busy. A chat begins short and grows, so rows count equally at each context
that was filled. The prompt costs what the chunks that fill a context cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from llm_serving_engine.backends.llama_cpp.padding import TILED_TOKENS
from llm_serving_engine.backends.llama_cpp.timed_calls import (
    NO_TIME,
    ROWS_TOKENS,
    WARM_UP_TOKENS,
    Call,
    CallTimer,
    CannotMeasure,
    Filled,
    TimeLimit,
    Times,
    TooSlow,
    fill_room,
)

PROMPT_TOKENS, OUTPUT_TOKENS = 400, 150
# The chunk that begins a context, and the context that rows are timed behind; both are less
# where there is no time.
START, DEPTH = TILED_TOKENS, 448
# Attention that is not the default must gain more; and where others took some of the cores.
MARGIN, MARGIN_DISTURBED = 0.05, 0.25
# What two measurements of the same call may differ by.
NOISE = 0.02
# A model whose first chunk takes less is fast in any way, and chance would choose.
CHUNK_SECONDS_MIN = 0.005


class Attention(NamedTuple):
    """One way to compute attention.

    Attributes:
        flash: With the fused kernel.
        cache_type: How the cache is stored.
    """

    flash: bool
    cache_type: str

    @property
    def name(self) -> str:
        """In words."""
        return f"flash attention {'on' if self.flash else 'off'} with {self.cache_type}"


Tried = Mapping[Attention, Times]
"""Times by kind, the default first."""

Begin = Callable[[Attention, bool], CallTimer | None]
"""Makes an empty context of a kind, a long one or not; None where llama.cpp refuses it."""


def time_attention(
    begin: Begin, kinds: Sequence[Attention], rows: int, depth: int, limit: TimeLimit
) -> dict[Attention, Filled]:
    """Time all kinds at a context's start, and those that may win in a long one.

    A kind that is slower than the default at the start, and faster in no call, makes no more. The
    default is not the first there: what only the first calls pay speaks for it.

    Args:
        begin: Makes contexts.
        kinds: The default first.
        rows: Of half of the slots.
        depth: The tokens of the long context; less if there is no time.
        limit: Of the time.

    Returns:
        What was timed and filled, by kind, the default first.

    Raises:
        CannotMeasure: There was no time, others computed, or the model is too small.
    """
    filled: dict[Attention, Filled] = {}

    def fill(timer: CallTimer, kind: Attention, size: int) -> None:
        if timer.fill(size):
            timer.rows(rows)
        filled[kind] = timer.filled()

    size = 0
    for kind in (*kinds[1:], kinds[0]):
        timer = begin(kind, False)
        if timer is not None:
            size = size or _first_chunk(timer, limit, len(kinds))
            fill(timer, kind, size)
    filled = {kind: filled[kind] for kind in kinds if kind in filled}
    rivals = _rivals(filled, rows)
    token_seconds, rows_seconds = (
        max(filled[kind].times.get(call, math.inf) for kind in rivals) / call.size
        for call in (Call("chunk", size, 0), Call("rows", rows, size))
    )
    room = fill_room(limit, token_seconds, rows * rows_seconds, len(rivals))
    size = min(room, depth - size)
    for kind in rivals if size else ():
        timer = begin(kind, True)
        if timer is not None:
            timer.resume(filled[kind])
            fill(timer, kind, size)
    return filled


def _first_chunk(timer: CallTimer, limit: TimeLimit, kinds: int) -> int:
    """The length of the chunks that contexts begin with, so that there is time for all kinds.

    Raises:
        TooSlow: There is none for the shortest.
    """
    for looks in (1, 2):
        for size in (START, 48, 32, 16):
            tokens = WARM_UP_TOKENS + size + ROWS_TOKENS
            if (kinds * tokens - WARM_UP_TOKENS) * timer.token_seconds <= limit.left:
                return size
        if looks == 1:
            if limit.left < WARM_UP_TOKENS * timer.token_seconds:
                raise CannotMeasure(NO_TIME)
            timer.warm_up()
    raise TooSlow("the model is too slow to measure")


def _rivals(filled: Mapping[Attention, Filled], rows: int) -> list[Attention]:
    """The default, which is the first, and the kinds that may be faster in a longer context.

    Raises:
        CannotMeasure: llama.cpp refused every kind, there was no time, or the calls are too short.
    """
    if not filled:
        raise CannotMeasure("llama.cpp refused every kind")
    tried = {kind: times for kind, (times, *_) in filled.items()}
    seconds = mix_seconds(tried, rows)
    default, known = next(iter(tried.items()))
    if min(took for call, took in known.items() if call.kind == "chunk") < CHUNK_SECONDS_MIN:
        raise CannotMeasure("calls are too short to compare")
    return [
        kind
        for kind, times in tried.items()
        if seconds[kind] <= seconds[default] * (1 + NOISE)
        or any(took * (1 + NOISE) < known.get(call, 0.0) for call, took in times.items())
    ]


def fastest_attention(tried: Tried, rows: int, margin: float = MARGIN) -> Attention:
    """The kind that is fastest for the mix; the first one where none gains enough.

    Args:
        tried: Times by kind, the default first.
        rows: Of half of the slots.
        margin: What another than the default must gain.
    """
    seconds = mix_seconds(tried, rows)
    default = next(iter(tried))
    best = min(seconds, key=lambda kind: seconds[kind])
    return best if seconds[best] * (1 + margin) <= seconds[default] else default


def mix_seconds(tried: Tried, rows: int) -> dict[Attention, float]:
    """Seconds of a request of the mix, by kind, from the calls that all kinds have made.

    Raises:
        CannotMeasure: They are too few.
    """
    shared = set.intersection(*(set(times) for times in tried.values()))
    chunks = [call for call in shared if call.kind == "chunk" and call.context < PROMPT_TOKENS]
    decoded = [call for call in shared if (call.kind, call.size) == ("rows", rows)]
    if not chunks or not decoded:
        raise CannotMeasure(NO_TIME)
    prompt = PROMPT_TOKENS / sum(call.size for call in chunks)
    output = OUTPUT_TOKENS / (rows * len(decoded))
    return {
        kind: prompt * sum(times[call] for call in chunks)
        + output * sum(times[call] for call in decoded)
        for kind, times in tried.items()
    }


def attention_reason(tried: Tried, chosen: Attention, rows: int) -> str:
    """The choice, and how much faster it is than the others."""
    seconds = mix_seconds(tried, rows)
    ratios = (
        f"{took / seconds[chosen]:.2f} x the speed of {kind.name}"
        for kind, took in seconds.items()
        if kind != chosen
    )
    return f"{chosen.name}: measured {', '.join(ratios)}"
