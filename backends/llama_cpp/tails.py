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
SHORT = 32


class Tails(NamedTuple):
    """What short chunks and whole tiles take.

    Attributes:
        token: Seconds of a token in a short chunk at the start of a context.
        token_growth: How much more for each token before it, of the chunk too.
        tile: Seconds of a tile at the start of a context.
        tile_growth: How much more for each token of context.
    """

    token: float
    token_growth: float
    tile: float
    tile_growth: float

    @classmethod
    def of(cls, speeds: Iterable[tuple[Shape, float]]) -> Tails | None:
        """From timed calls of both in one context, and of a tile at its start.

        At the start of a context, a token of a short chunk takes as long as one of a tile.
        Returns None where calls are missing.
        """
        known = dict(speeds)
        tile = known.get(Call("chunk", TILE, 0).shape)
        contexts = (
            round(shape.context * 1000 / SHORT - (SHORT - 1) / 2)
            for shape in known
            if shape.runs == 1 and shape.tokens == SHORT
        )
        context = max(contexts, default=0)
        deep_tile = known.get(Call("chunk", TILE, context).shape)
        if tile is None or deep_tile is None or context == 0:
            return None
        short = known[Call("chunk", SHORT, context).shape]
        return cls(
            token=tile / TILE,
            token_growth=max(short / SHORT - tile / TILE, 0) / (context + SHORT / 2),
            tile=tile,
            tile_growth=max(deep_tile - tile, 0) / context,
        )

    def shortest(self, context: int) -> int:
        """What chunks are cut down to: a tile, if shorter ones are filled up to it.

        Args:
            context: Tokens of a slot; what is faster in its middle decides.
        """
        return self.padded_length(SHORT, context // 2)

    def padded_length(self, length: int, start: int) -> int:
        """The tokens to compute for so many at a position: a whole tile, if that is faster."""
        if not 1 < length < TILE:
            return length
        # Each token also looks at those of the chunk before it: half of them on average.
        short = length * (self.token + self.token_growth * (start + length / 2))
        return TILE if self.tile + self.tile_growth * start < short else length
