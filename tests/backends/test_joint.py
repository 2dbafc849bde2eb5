"""Prompt chunks of several sequences in one call: which, and that nobody's bits change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.llama_cpp.backend import LlamaCppBackend
from llm_serving_engine.backends.llama_cpp.joint import (
    PADDING_PER_CALL,
    TILED_TOKENS,
    Limits,
    Part,
    joint_calls,
    parts_of,
)
from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.scheduler.step import (
    ClearSlot,
    DecodeRow,
    OpenSequence,
    PrefillChunk,
    SampledToken,
    Step,
)

CONTEXT = 256
UNIT = 16
CONFIG = BackendConfig(
    sequences=6,
    context_per_sequence=CONTEXT,
    threads=1,
    prefill_chunk=UNIT,
    batch_invariant=True,
)

Tokens = tuple[int, ...]


def chunk_of(slot: int, length: int, position: int = 0) -> PrefillChunk:
    tokens = np.random.default_rng(slot).integers(3, 300, length)
    return PrefillChunk(slot, position, tuple(int(token) for token in tokens), sample=True)


Shape = tuple[int, int, int]
LIMITS = Limits(64, CONTEXT)


def shapes(*lengths: int, limits: Limits = LIMITS, unit: int = UNIT) -> list[list[Shape]]:
    """(slot, tokens, padding) of the parts of each call, for prompts in consecutive slots."""
    chunks = [chunk_of(slot, length) for slot, length in enumerate(lengths)]
    calls = joint_calls([parts_of(chunk, unit, aligned=True) for chunk in chunks], limits)
    return [[(part.slot, len(part.tokens), part.padding) for part in call] for call in calls]


def test_equally_long_parts_of_neighbours_go_together() -> None:
    assert shapes(16, 16, 16) == [[(0, 16, 0), (1, 16, 0), (2, 16, 0)]]
    assert shapes(19, 19) == [[(0, 16, 0), (1, 16, 0)], [(0, 3, 0), (1, 3, 0)]]


def test_shorter_parts_are_filled_up() -> None:
    assert shapes(18, 19, 18)[1:] == [[(0, 2, 1), (1, 3, 0), (2, 2, 1)]]


def test_padding_is_less_than_the_calls_that_it_saves() -> None:
    least = 2 + PADDING_PER_CALL
    assert len(shapes(2, least)) == 1
    assert len(shapes(2, least + 1)) == 2
    # One call saved, and another: the first may need the padding of both.
    assert len(shapes(least + 1, 2)) == 2
    assert len(shapes(least + 1, least + 1, 2)) == 1


def test_padding_needs_room_and_a_model_that_drops_it() -> None:
    assert len(shapes(2, 3, limits=Limits(64, CONTEXT, padding=False))) == 2
    assert len(shapes(3, 3, limits=Limits(64, CONTEXT, padding=False))) == 1
    assert len(shapes(18, 19, limits=Limits(64, 19))) == 2
    assert len(shapes(18, 19, limits=Limits(64, 18))) == 3


def test_padding_does_not_change_the_kernel() -> None:
    below, limits = TILED_TOKENS - 1, Limits(1000, CONTEXT)
    assert len(shapes(below, below - 1, limits=limits, unit=128)) == 1
    assert len(shapes(below, below + 1, limits=limits, unit=128)) == 2
    assert len(shapes(below + 1, below + 2, limits=limits, unit=128)) == 1


def test_no_more_than_a_call_holds() -> None:
    assert [len(call) for call in shapes(*[16] * 6, limits=Limits(64, CONTEXT))] == [4, 2]
    assert [len(call) for call in shapes(*[16] * 6, limits=Limits(63, CONTEXT))] == [3, 3]
    assert [len(call) for call in shapes(*[16] * 2, limits=Limits(16, CONTEXT))] == [1, 1]
    assert [len(call) for call in shapes(2, 3, limits=Limits(6, CONTEXT))] == [2]
    assert [len(call) for call in shapes(2, 3, limits=Limits(5, CONTEXT))] == [1, 1]


def test_a_single_token_stays_alone() -> None:
    assert shapes(17, 17)[1:] == [[(0, 1, 0)], [(1, 1, 0)]]
    assert shapes(17, 18)[1:] == [[(0, 1, 0)], [(1, 2, 0)]]


prompts = st.lists(st.integers(1, 100), min_size=1, max_size=6)


@given(lengths=prompts, rows_max=st.integers(UNIT, 100), gaps=st.lists(st.booleans(), min_size=6))
def test_each_part_once_and_in_its_order(
    lengths: list[int], rows_max: int, gaps: list[bool]
) -> None:
    slots = [slot + sum(gaps[:slot]) for slot in range(len(lengths))]
    parts = [
        parts_of(chunk_of(slot, length), UNIT, aligned=True)
        for slot, length in zip(slots, lengths, strict=True)
    ]
    calls = list(joint_calls(parts, Limits(rows_max, CONTEXT)))
    for slot, expected in zip(slots, parts, strict=True):
        computed = [part for call in calls for part in call if part.slot == slot]
        assert [part._replace(padding=0) for part in computed] == expected
    for call in calls:
        sizes = [len(part.tokens) + part.padding for part in call]
        assert sum(sizes) <= max(rows_max, UNIT)
        assert len(set(sizes)) == 1
        first = call[0].slot
        assert [part.slot for part in call] == list(range(first, first + len(call)))


@pytest.fixture(scope="module")
def backend(tiny_quantized_model_path: Path) -> Iterator[LlamaCppBackend]:
    backend = LlamaCppBackend(str(tiny_quantized_model_path), CONFIG, lambda fraction: None)
    yield backend
    backend.close()


def prefill(backend: LlamaCppBackend, *chunks: PrefillChunk) -> dict[int, SampledToken]:
    """The tokens of prompts that are computed in one step, by slot."""
    slots = [chunk.slot for chunk in chunks]
    greedy = Sampling(temperature=0.0)
    step = Step(
        1,
        tuple(map(ClearSlot, slots)),
        tuple(OpenSequence(slot, greedy, top_logprobs=5) for slot in slots),
        chunks,
    )
    result = backend.execute(step)
    assert not result.failures
    return {token.slot: token for token in result.tokens}


def decode(backend: LlamaCppBackend, *chunks: PrefillChunk) -> tuple[SampledToken, ...]:
    """The tokens after a token that follows each prompt."""
    result = backend.execute(
        Step(2, decodes=tuple(DecodeRow(chunk.slot, len(chunk.tokens), 7) for chunk in chunks))
    )
    assert not result.failures
    return result.tokens


@pytest.mark.parametrize(
    "lengths", [(16,) * 6, (35,) * 4, (34, 37, 36, 34), (33, 40, 40, 17, 90, 5)]
)
def test_the_same_bits_together_as_alone(
    backend: LlamaCppBackend, lengths: tuple[int, ...]
) -> None:
    chunks = [chunk_of(slot, length) for slot, length in enumerate(lengths)]
    alone = {slot: token for chunk in chunks for slot, token in prefill(backend, chunk).items()}
    assert prefill(backend, *chunks) == alone
    # Whatever the order in which they come.
    assert prefill(backend, *reversed(chunks)) == alone


def test_padding_leaves_nothing_behind(backend: LlamaCppBackend) -> None:
    chunks = [chunk_of(slot, length) for slot, length in enumerate((34, 37, 36))]
    expected: tuple[SampledToken, ...] = ()
    for chunk in chunks:
        prefill(backend, chunk)
        expected += decode(backend, chunk)
    prefill(backend, *chunks)
    assert decode(backend, *chunks) == expected


def test_who_has_no_room_fails_alone(backend: LlamaCppBackend) -> None:
    chunks = [chunk_of(slot, UNIT) for slot in (0, 2)]
    expected = prefill(backend, *chunks)
    prefill(backend, chunk_of(1, CONTEXT - 4))
    full = chunk_of(1, UNIT, position=CONTEXT - 4)
    step = Step(
        2,
        (ClearSlot(0), ClearSlot(2)),
        tuple(OpenSequence(slot, Sampling(temperature=0.0), top_logprobs=5) for slot in (0, 2)),
        (chunks[0], full, chunks[1]),
    )
    result = backend.execute(step)
    assert {token.slot: token for token in result.tokens} == expected
    assert [failure.slot for failure in result.failures] == [1]
    assert "no room" in result.failures[0].reason


def test_a_part_is_a_row_where_it_was_one() -> None:
    chunk = PrefillChunk(0, 0, (5, 6, 7), sample=True, replayed=1)
    *_, last = parts_of(chunk, UNIT, aligned=True)
    assert last == Part(0, 2, (7,), True, row=True)
