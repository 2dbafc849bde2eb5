"""How fast a model is that was just loaded."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

# The fastest of some steps is what a step takes on a machine that does nothing else.
DECODE_TRIALS = 3


def measured_speed(
    tokens: int, prefill: Callable[[], object], decode: Callable[[int], object]
) -> tuple[float, float]:
    """Seconds for a prompt token, and for a step of one decode row.

    Args:
        tokens: How many `prefill` computes.
        prefill: Computes a chunk.
        decode: Computes a row; told how many rows there were before it.
    """
    chunk = _seconds(prefill)
    return chunk / tokens, min(_seconds(partial(decode, trial)) for trial in range(DECODE_TRIALS))


def _seconds(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started
