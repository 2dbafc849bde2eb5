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
from llm_serving_engine.backends.llama_cpp.joint import Part, joint_calls, parts_of
from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.scheduler.step import (
    ClearSlot,
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


def shapes(*lengths: int, rows_max: int = 64, first: int = 0) -> list[list[tuple[int, int, int]]]:
    """(slot, position, tokens) of the parts of each call, for prompts in consecutive slots."""
    chunks = [chunk_of(slot, length) for slot, length in enumerate(lengths, first)]
    calls = joint_calls([parts_of(chunk, UNIT, aligned=True) for chunk in chunks], rows_max)
    return [[(part.slot, part.position, len(part.tokens)) for part in call] for call in calls]


def test_equally_long_parts_of_neighbours_go_together() -> None:
    assert shapes(16, 16, 16) == [[(0, 0, 16), (1, 0, 16), (2, 0, 16)]]
    assert shapes(19, 19) == [[(0, 0, 16), (1, 0, 16)], [(0, 16, 3), (1, 16, 3)]]
    assert shapes(18, 19) == [[(0, 0, 16), (1, 0, 16)], [(0, 16, 2)], [(1, 16, 3)]]


def test_no_more_than_a_call_holds() -> None:
    assert [len(call) for call in shapes(*[16] * 6, rows_max=64)] == [4, 2]
    assert [len(call) for call in shapes(*[16] * 6, rows_max=63)] == [3, 3]
    assert [len(call) for call in shapes(*[16] * 2, rows_max=16)] == [1, 1]


def test_a_single_token_stays_alone() -> None:
    assert shapes(17, 17)[1:] == [[(0, 16, 1)], [(1, 16, 1)]]


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
    calls = list(joint_calls(parts, rows_max))
    for slot, expected in zip(slots, parts, strict=True):
        assert [part for call in calls for part in call if part.slot == slot] == expected
    for call in calls:
        sizes = [len(part.tokens) for part in call]
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


@pytest.mark.parametrize("lengths", [(16,) * 6, (35,) * 4, (33, 40, 40, 17, 90, 5)])
def test_the_same_bits_together_as_alone(
    backend: LlamaCppBackend, lengths: tuple[int, ...]
) -> None:
    chunks = [chunk_of(slot, length) for slot, length in enumerate(lengths)]
    alone = {slot: token for chunk in chunks for slot, token in prefill(backend, chunk).items()}
    assert prefill(backend, *chunks) == alone
    # Whatever the order in which they come.
    assert prefill(backend, *reversed(chunks)) == alone


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
