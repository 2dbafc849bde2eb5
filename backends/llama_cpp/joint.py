"""Prompt chunks of several sequences in one call.

Every call goes through all of the weights, and the kernels are at their best with
many rows. llama.cpp computes sequences together that have equally many tokens and
are in consecutive slots; others it takes apart again. So shorter ones are filled up
with tokens of no meaning, which are dropped afterwards: a few rows more cost less
than another call.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from llm_serving_engine.backends.chunks import split_chunk
from llm_serving_engine.scheduler.step import PrefillChunk

# Rows of no meaning for each call that they save: the rows of a prompt's end take as
# long as some five to seven less in a call of their own.
PADDING_PER_CALL = 4
# Tokens of one sequence from which on llama.cpp's attention is another kernel.
TILED_TOKENS = 64


class Limits(NamedTuple):
    """What a call can hold.

    Attributes:
        rows: Tokens of all its sequences.
        positions: Tokens of a sequence, with those before.
        padding: Whether tokens of no meaning can be dropped afterwards.
    """

    rows: int
    positions: int
    padding: bool = True


class Part(NamedTuple):
    """A run of one sequence's tokens, in one call.

    Attributes:
        slot: The sequence's.
        position: Of the first token.
        tokens: At most as many as the model computes at a time.
        sample: Whether logits after the last are wanted.
        row: It is a single token that was a decode row before.
        padding: How many tokens of no meaning follow.
    """

    slot: int
    position: int
    tokens: tuple[int, ...]
    sample: bool
    row: bool = False
    padding: int = 0

    def fits(self, tokens: int, limits: Limits) -> bool:
        """Whether it can be filled up to so many tokens, and computed by the same kernels."""
        if tokens == len(self.tokens):
            return True
        same_kernel = tokens < TILED_TOKENS or len(self.tokens) >= TILED_TOKENS
        return limits.padding and same_kernel and self.position + tokens <= limits.positions


def parts_of(chunk: PrefillChunk, unit: int, *, aligned: bool) -> list[Part]:
    """A chunk in parts of at most `unit` tokens; see `split_chunk`."""
    output = chunk.position + len(chunk.tokens) - chunk.replayed
    return [
        Part(chunk.slot, position, tokens, sample, len(tokens) == 1 and position >= output)
        for position, tokens, sample in split_chunk(chunk, unit, aligned=aligned)
    ]


def joint_calls(chunks: Iterable[Sequence[Part]], limits: Limits) -> Iterator[list[Part]]:
    """What to compute in one call after the other: each sequence's parts in their order.

    A part of a single token stays alone. Beside another one its bits would not be
    what they are without it: see `company`.

    Args:
        chunks: The parts of each.
        limits: Of a call.
    """
    for layer in itertools.zip_longest(*chunks):
        call: list[Part] = []
        for part in sorted(part for part in layer if part is not None):
            if call and not _joins(part, call, limits):
                yield _padded(call)
                call = []
            call.append(part)
        if call:
            yield _padded(call)


def _joins(part: Part, call: list[Part], limits: Limits) -> bool:
    if part.slot != call[-1].slot + 1 or 1 in (len(part.tokens), len(call[-1].tokens)):
        return False
    parts = [*call, part]
    longest = _longest(parts)
    rows = longest * len(parts)
    padding = rows - sum(len(one.tokens) for one in parts)
    return (
        rows <= limits.rows
        and padding <= PADDING_PER_CALL * len(call)
        and all(one.fits(longest, limits) for one in parts)
    )


def _padded(call: list[Part]) -> list[Part]:
    longest = _longest(call)
    return [part._replace(padding=longest - len(part.tokens)) for part in call]


def _longest(parts: list[Part]) -> int:
    return max(len(part.tokens) for part in parts)
