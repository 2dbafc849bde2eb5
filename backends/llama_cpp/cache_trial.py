"""What a model's cache can do, found by trying it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llm_serving_engine.backends.llama_cpp.part import FILLER, Part

if TYPE_CHECKING:
    from llm_serving_engine.backends.llama_cpp.model import LlamaModel

_SHORT, _LONG = 4, 8


class CacheTraits(NamedTuple):
    """How a model keeps its sequences.

    Attributes:
        rollback: How many of a sequence's last tokens can be dropped; None for all.
            0 where layers fold the tokens into a state.
        state_bytes: What a saved sequence takes beside its tokens: the folded state.
        token_bytes: What it takes for each token.
    """

    rollback: int | None
    state_bytes: int
    token_bytes: int

    @property
    def unlimited(self) -> bool:
        """Whether any part at a sequence's end can be dropped."""
        return self.rollback is None


def try_cache(model: LlamaModel) -> CacheTraits:
    """Compute a few tokens, drop some, and look at what is left; leaves slot 0 empty."""
    model.decode([Part(0, 0, FILLER * _SHORT, wanted=False)])
    short = model.saved_bytes(0)
    model.decode([Part(0, _SHORT, FILLER * (_LONG - _SHORT), wanted=False)])
    long = model.saved_bytes(0)
    token_bytes = (long - short) // (_LONG - _SHORT)
    dropped = model.drop_from(0, _SHORT)
    model.clear(0)
    rollback = None if dropped else 0
    if model.keeps_state:
        rollback = model.rollback_max
    return CacheTraits(rollback, max(short - _SHORT * token_bytes, 0), token_bytes)
