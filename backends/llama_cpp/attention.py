"""Kinds of attention, timed in turns and compared by one mix of calls.

The mix is a chat: a prompt of 400 tokens and 150 tokens of output, while half of the
slots are busy. A chat begins short and grows, so rows count equally at each context
that was filled. The prompt costs what the chunks that fill a context cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from llm_serving_engine.backends.llama_cpp.timed_calls import (
    Call,
    CallTimer,
    CannotMeasure,
    Filled,
    TimeLimit,
    Times,
)

PROMPT_TOKENS, OUTPUT_TOKENS = 400, 150
# Chunks that fill a context, as far as there is time: 448 tokens in all.
FILL = (64, 128, 256)
# Attention that is not the default must gain more; and where others took some of the cores.
MARGIN, MARGIN_DISTURBED = 0.05, 0.25
# The share of the time that the first turns may take: the rest is for the default's second.
FIRST_ROUND = 0.7
# A model whose first chunk takes less is fast in any way, and chance would choose.
CHUNK_SECONDS_MIN = 0.005
# What rows at one context take at most, both trials, in times of the first chunk.
ROWS_CHUNKS = 1.0


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

Begin = Callable[[Attention], CallTimer | None]
"""Makes an empty context of a kind; None where llama.cpp refuses it."""


class Trials(NamedTuple):
    """What was tried.

    Attributes:
        times: By kind, the default first.
        filled: The contexts that were filled, by kind.
    """

    times: Tried
    filled: dict[Attention, Filled]


def time_attention(begin: Begin, kinds: Iterable[Attention], rows: int, limit: TimeLimit) -> Trials:
    """Time each kind once, and the default again if another was faster: it was the first.

    So what only the first calls pay does not decide. All kinds make the same calls, as many
    as there is time for. Two things end a turn after its first calls: a kind that is slower
    than the default in all of them, and a default that is as fast as it was before.

    Raises:
        CannotMeasure: There was no time, others computed, or the model is too small.
    """
    kinds = list(kinds)
    tried: dict[Attention, dict[Call, float]] = {}
    sizes: tuple[int, ...] = ()
    filled: dict[Attention, Filled] = {}
    for turn, kind in enumerate([*kinds, kinds[0]]):
        if turn == len(kinds) and (kind not in tried or fastest_attention(tried, rows) == kind):
            break
        timer = begin(kind)
        if timer is None:
            continue
        timer.fill(FILL[0])
        timer.rows(rows)
        if not tried:
            share = limit.left * FIRST_ROUND / len(kinds)
            sizes = affordable(_first_chunk(timer.times), share)
        default = tried.get(kinds[0], {})
        if turn == len(kinds):
            enough = not any(_slower(default, timer.times))
        else:
            enough = bool(default) and all(_slower(timer.times, default))
        for size in () if enough else sizes[1:]:
            if timer.fill(size):
                timer.rows(rows)
        known = tried.setdefault(kind, {})
        for call, seconds in timer.times.items():
            known[call] = min(seconds, known.get(call, seconds))
        if kind not in filled:
            filled[kind] = timer.filled()._replace(times=known)
    if not tried:
        raise CannotMeasure("llama.cpp refused every kind")
    return Trials(tried, filled)


def affordable(chunk_seconds: float, seconds_max: float) -> tuple[int, ...]:
    """The chunks to fill a context with, and rows at each context, within a time.

    Args:
        chunk_seconds: Of the first chunk.
        seconds_max: For all calls of one kind.
    """
    seconds = 0.0
    for count, size in enumerate(FILL):
        seconds += chunk_seconds * (size / FILL[0] + ROWS_CHUNKS)
        if seconds > seconds_max:
            return FILL[:count]
    return FILL


def _slower(times: Times, others: Times) -> list[bool]:
    """Whether each call that is in both is slower by more than the margin."""
    return [times[call] > others[call] * (1 + MARGIN) for call in times if call in others]


def _first_chunk(times: Times) -> float:
    """Seconds of the first chunk. Raises CannotMeasure where that is too short to compare."""
    seconds = times.get(Call("chunk", FILL[0], 0))
    if seconds is None:
        raise CannotMeasure("there was no time to measure")
    if seconds < CHUNK_SECONDS_MIN:
        raise CannotMeasure("calls are too short to compare")
    return seconds


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
        raise CannotMeasure("there was no time to measure")
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
