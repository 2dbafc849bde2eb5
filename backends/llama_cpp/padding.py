"""Padding: filler tokens after prompt chunks that are computed in one call.

llama.cpp computes sequences together that have equally many tokens and are in
consecutive slots; others it takes apart again. The shorter ones are filled up, and
the fillers are dropped from the cache afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

from llm_serving_engine.backends.llama_cpp.part import Part

# Tokens of one sequence from which on llama.cpp's attention is another kernel.
TILED_TOKENS = 64


def padded(parts: Sequence[Part]) -> list[Part]:
    """The parts, all as long as the longest."""
    longest = max(part.length for part in parts)
    return [part._replace(padding=longest - len(part.tokens)) for part in parts]


def same_kernels(parts: Sequence[Part]) -> bool:
    """Whether each part, padded, is computed by the kernels that compute it alone."""
    tiled = {len(part.tokens) >= TILED_TOKENS for part in parts}
    return len(tiled) == 1


def fits(parts: Sequence[Part], context: int) -> bool:
    """Whether each part, padded, is within its slot."""
    longest = max(part.length for part in parts)
    return all(part.start + longest <= context for part in parts)
