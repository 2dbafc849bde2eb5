"""Prefill chunks, cut where their bits stay the same."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from llm_serving_engine.scheduler.step import PrefillChunk

# Rows of output that are computed again in one call. Few enough for the kernels
# that decode rows use: llama.cpp's attention takes another one from 64 rows on.
REPLAY_ROWS_MAX = 32


def split_chunk(
    chunk: PrefillChunk, unit: int, *, aligned: bool = True
) -> list[tuple[int, tuple[int, ...], bool]]:
    """Cut a chunk into parts of at most `unit` tokens, up to where the output is.

    Output that is computed again is cut from the prompt, and into parts of at
    most REPLAY_ROWS_MAX tokens.

    Args:
        chunk: What to cut.
        unit: Tokens.
        aligned: Whether to cut at the multiples of `unit` from the sequence's
            start, which keeps bits the same wherever the chunk begins; else the
            parts are as few as can be.

    Returns:
        (position, tokens, sample) of each part; only the last can sample.
    """
    end = chunk.position + len(chunk.tokens)
    output = end - chunk.replayed
    origin = chunk.position // unit * unit if aligned else chunk.position
    within = range(origin + unit, output, unit)
    starts = [start for start in (chunk.position, *within) if start < output]
    cuts = [*starts, *_replay_cuts(output, end), end]
    return [
        (
            start,
            chunk.tokens[start - chunk.position : stop - chunk.position],
            chunk.sample and stop == end,
        )
        for start, stop in itertools.pairwise(cuts)
    ]


def _replay_cuts(start: int, end: int) -> Iterator[int]:
    """Where the parts of the output begin: of equal length, so that none is a row alone."""
    parts = -(-(end - start) // REPLAY_ROWS_MAX)
    return (start + (end - start) * part // parts for part in range(parts))
