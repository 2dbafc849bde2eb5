"""The end of a prompt, filled up to a whole tile of the attention kernel where that is faster.

With flash attention, llama.cpp computes 64 tokens or more of a sequence by tiles, and
fewer one by one. How much that costs grows with the context before them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from llm_serving_engine.backends.llama_cpp.padding import TILED_TOKENS
from llm_serving_engine.backends.llama_cpp.timed_calls import Call
from llm_serving_engine.scheduler.step import Shape

TILE = TILED_TOKENS
# The length below a tile that is timed.
SHORT = 48


class Tails(NamedTuple):
    """What short chunks and whole tiles take.

    Attributes:
        token: Seconds of a token in a short chunk at the start of a context.
        token_growth: How much more for each token of context.
        tile: Seconds of a tile at the start of a context.
        tile_growth: How much more for each token of context.
    """

    token: float
    token_growth: float
    tile: float
    tile_growth: float

    @classmethod
    def of(cls, speeds: Iterable[tuple[Shape, float]]) -> Tails | None:
        """From timed calls; None where a short chunk or a tile was not timed at two contexts."""
        known = dict(speeds)
        context = 0
        for shape in known:
            if shape.runs == 1 and shape.tokens == SHORT:
                context = max(context, round(shape.context * 1000 / SHORT - (SHORT - 1) / 2))
        calls = [Call("chunk", size, at).shape for size in (SHORT, TILE) for at in (0, context)]
        if context == 0 or not all(shape in known for shape in calls):
            return None
        short, short_deep, tile, tile_deep = (known[shape] for shape in calls)
        return cls(
            token=short / SHORT,
            token_growth=max(short_deep - short, 0) / SHORT / context,
            tile=tile,
            tile_growth=max(tile_deep - tile, 0) / context,
        )

    def padded_length(self, length: int, start: int) -> int:
        """The tokens to compute for so many at a position: a whole tile, if that is faster."""
        if not 1 < length < TILE:
            return length
        short = length * (self.token + self.token_growth * start)
        return TILE if self.tile + self.tile_growth * start < short else length
