"""Prompt chunks of several sequences in one call.

Every call goes through all of the weights, and the kernels are at their best with
many rows. llama.cpp computes sequences together that have equally many tokens and
are in consecutive slots; others it takes apart again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from llm_serving_engine.backends.chunks import split_chunk
from llm_serving_engine.scheduler.step import PrefillChunk


class Part(NamedTuple):
    """A run of one sequence's tokens, in one call.

    Attributes:
        slot: The sequence's.
        position: Of the first token.
        tokens: At most as many as the model computes at a time.
        sample: Whether logits after the last are wanted.
        row: It is a single token that was a decode row before.
    """

    slot: int
    position: int
    tokens: tuple[int, ...]
    sample: bool
    row: bool = False


def parts_of(chunk: PrefillChunk, unit: int, *, aligned: bool) -> list[Part]:
    """A chunk in parts of at most `unit` tokens; see `split_chunk`."""
    output = chunk.position + len(chunk.tokens) - chunk.replayed
    return [
        Part(chunk.slot, position, tokens, sample, len(tokens) == 1 and position >= output)
        for position, tokens, sample in split_chunk(chunk, unit, aligned=aligned)
    ]


def joint_calls(chunks: Iterable[Sequence[Part]], rows_max: int) -> Iterator[list[Part]]:
    """What to compute in one call after the other: each sequence's parts in their order.

    A part of a single token stays alone. Beside another one its bits would not be
    what they are without it: see `company`.

    Args:
        chunks: The parts of each.
        rows_max: Tokens of a call.
    """
    for layer in itertools.zip_longest(*chunks):
        call: list[Part] = []
        for part in sorted(part for part in layer if part is not None):
            if call and not _joins(part, call, rows_max):
                yield call
                call = []
            call.append(part)
        if call:
            yield call


def _joins(part: Part, call: list[Part], rows_max: int) -> bool:
    tokens, last = len(part.tokens), call[-1]
    follows = part.slot == last.slot + 1 and tokens == len(last.tokens)
    return follows and tokens > 1 and tokens * (len(call) + 1) <= rows_max
