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
        """From timed calls of both, at one context or two; None where there are none.

        With one context, growth is 0: the end that is hardly shorter than a tile is filled.
        """
        known = dict(speeds)
        contexts = {0}
        for shape in known:
            if shape.runs == 1 and shape.tokens == SHORT:
                contexts.add(round(shape.context * 1000 / SHORT - (SHORT - 1) / 2))
        timed = {
            at: (known[short], known[tile])
            for at in contexts
            if (short := Call("chunk", SHORT, at).shape) in known
            and (tile := Call("chunk", TILE, at).shape) in known
        }
        if not timed:
            return None
        first, last = min(timed), max(timed)
        (short_seconds, tile_seconds), (short_deep, tile_deep) = timed[first], timed[last]
        distance = max(last - first, 1)
        growth = max(short_deep - short_seconds, 0) / SHORT / distance
        tile_growth = max(tile_deep - tile_seconds, 0) / distance
        return cls(
            token=short_seconds / SHORT - growth * first,
            token_growth=growth,
            tile=tile_seconds - tile_growth * first,
            tile_growth=tile_growth,
        )

    def padded_length(self, length: int, start: int) -> int:
        """The tokens to compute for so many at a position: a whole tile, if that is faster."""
        if not 1 < length < TILE:
            return length
        short = length * (self.token + self.token_growth * start)
        return TILE if self.tile + self.tile_growth * start < short else length
