"""The same bits in any company: the probe that asks, and the company for rows that need it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.llama_cpp.backend import LlamaCppBackend
from llm_serving_engine.backends.llama_cpp.company import (
    ALONE_UP_TO,
    CELLS_UNIT,
    HOLE_MAX,
    ROWS_MIN,
    add_company,
    complete_tiles,
    fill_holes,
)
from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.scheduler.step import (
    ClearSlot,
    CopyPrefix,
    DecodeRow,
    DropSaved,
    OpenSequence,
    PrefillChunk,
    RestoreSlot,
    SaveSlot,
    Step,
)

CONFIG = BackendConfig(sequences=4, context_per_sequence=1024, threads=2, batch_invariant=True)
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def backend(tiny_quantized_model_path: Path) -> Iterator[LlamaCppBackend]:
    backend = LlamaCppBackend(str(tiny_quantized_model_path), CONFIG, lambda fraction: None)
    yield backend
    backend.close()


def prompt_of(seed: int, length: int) -> tuple[int, ...]:
    return tuple(int(token) for token in np.random.default_rng(seed).integers(3, 300, length))


def prefill(slot: int, prompt: tuple[int, ...], position: int = 0) -> Step:
    return Step(
        1,
        (ClearSlot(slot, position),),
        (OpenSequence(slot, GREEDY, top_logprobs=5),),
        (PrefillChunk(slot, position, prompt[position:], sample=True),),
    )


def test_the_probe_tells_kernels_apart(tiny_model_path: Path, backend: LlamaCppBackend) -> None:
    # F32's kernel adds up in another order when there are more rows; Q8_0's does not.
    assert backend.report.capabilities.batch_invariant
    other = LlamaCppBackend(str(tiny_model_path), CONFIG, lambda fraction: None)
    assert not other.report.capabilities.batch_invariant
    other.close()


def test_a_saved_cache_is_the_same_cache(backend: LlamaCppBackend) -> None:
    prompt = prompt_of(1, 300)
    token = backend.execute(prefill(0, prompt)).tokens[0].token
    undisturbed = backend.execute(Step(2, decodes=(DecodeRow(0, 300, token),))).tokens
    backend.execute(prefill(0, prompt))
    backend.execute(Step(3, (SaveSlot(0, key=7), ClearSlot(0))))
    restore = (RestoreSlot(2, key=7),)
    opens = (OpenSequence(2, GREEDY, top_logprobs=5),)
    restored = backend.execute(Step(4, restore, opens, (), (DecodeRow(2, 300, token),))).tokens
    assert restored[0]._replace(slot=0) == undisturbed[0]


@pytest.mark.parametrize("length", [100, 128, 129, 550])
@pytest.mark.parametrize("beside", [True, False])
def test_output_that_is_computed_again_has_the_same_bits(
    backend: LlamaCppBackend, length: int, beside: bool
) -> None:
    prompt = prompt_of(2, length)
    tokens = [backend.execute(prefill(0, prompt)).tokens[0]]
    backend.execute(prefill(1, prompt_of(3, 7)))
    for position in range(length, length + 100):
        rows = [DecodeRow(0, position, tokens[-1].token)]
        if beside:
            rows.append(DecodeRow(1, position - length + 7, 9))
        tokens.append(backend.execute(Step(2, decodes=tuple(rows))).tokens[0])
    for produced in (1, 2, 33, 64, 70, 100):
        output = tuple(one.token for one in tokens[:produced])
        opens = (OpenSequence(2, GREEDY, top_logprobs=5, output=output),)
        chunk = PrefillChunk(2, 0, prompt + output, True, replayed=produced)
        again = backend.execute(Step(3, (ClearSlot(2),), opens, (chunk,)))
        assert again.tokens[0]._replace(slot=0) == tokens[produced]


def test_a_saved_cache_can_be_dropped(backend: LlamaCppBackend) -> None:
    backend.execute(prefill(0, prompt_of(1, 20)))
    backend.execute(Step(1, (SaveSlot(0, key=8),)))
    backend.execute(Step(2, (DropSaved(8),)))
    with pytest.raises(KeyError):
        backend.execute(Step(3, (RestoreSlot(0, key=8),)))


def test_a_lone_row_of_a_long_sequence_has_the_bits_that_it_has_in_company(
    backend: LlamaCppBackend,
) -> None:
    prompt = prompt_of(2, 700)
    token = backend.execute(prefill(0, prompt)).tokens[0].token
    row = DecodeRow(0, 700, token)
    alone = backend.execute(Step(1, decodes=(row,))).tokens[0]
    backend.execute(prefill(0, prompt))
    for slot in (1, 2):
        backend.execute(prefill(slot, prompt_of(slot, 30)))
    others = (DecodeRow(1, 30, 5), DecodeRow(2, 30, 6))
    beside = backend.execute(Step(2, decodes=(row, *others))).tokens[0]
    assert alone == beside


def test_company_leaves_nothing_behind(backend: LlamaCppBackend) -> None:
    token = backend.execute(prefill(0, prompt_of(3, 400))).tokens[0].token
    kept = prompt_of(4, 50)
    backend.execute(prefill(1, kept))
    for position in range(400, 420):
        token = backend.execute(Step(1, decodes=(DecodeRow(0, position, token),))).tokens[0].token
    # What slot 1 holds is still what it held: a prompt that goes on from there agrees.
    longer = (*kept, 9, 10)
    reused = backend.execute(prefill(1, longer, position=50)).tokens
    fresh = backend.execute(prefill(2, longer)).tokens
    assert reused[0].token == fresh[0].token


def test_a_copied_prefix_gives_the_same_bits(backend: LlamaCppBackend) -> None:
    prompt = prompt_of(5, 200)
    backend.execute(prefill(0, prompt[:150]))
    alone = backend.execute(prefill(1, prompt)).tokens[0]
    copied = Step(
        1,
        (CopyPrefix(0, 1, 128),),
        (OpenSequence(1, GREEDY, top_logprobs=5),),
        (PrefillChunk(1, 128, prompt[128:], sample=True),),
    )
    assert backend.execute(copied).tokens[0] == alone


slots_and_positions = st.dictionaries(st.integers(0, 7), st.integers(0, 999), min_size=1)


@given(slots_and_positions, st.sets(st.integers(0, 7)))
def test_everybody_who_needs_company_and_can_have_it_gets_it(
    positions: dict[int, int], full: set[int]
) -> None:
    rows = tuple(DecodeRow(slot, position, 1) for slot, position in sorted(positions.items()))
    together = add_company(rows, 8, lambda slot: None if slot in full else 3)
    slots = [row.slot for row in together]
    assert slots == sorted(set(slots))
    assert set(rows) <= set(together)
    for row in rows:
        neighbours = {row.slot - 1, row.slot + 1} & set(range(8))
        if row.position >= ALONE_UP_TO and not neighbours & set(slots):
            assert neighbours <= full
    for row in set(together) - set(rows):
        assert row.slot not in full


@given(slots_and_positions, st.sets(st.integers(0, 7)), st.integers(0, 999))
def test_small_holes_are_filled(positions: dict[int, int], full: set[int], at: int) -> None:
    rows = tuple(DecodeRow(slot, position, 1) for slot, position in sorted(positions.items()))
    filled = fill_holes(rows, lambda slot: None if slot in full else at)
    slots = [row.slot for row in filled]
    assert slots == sorted(set(slots))
    assert set(rows) <= set(filled)
    fits = at // CELLS_UNIT <= max(positions.values()) // CELLS_UNIT
    for before, after in itertools.pairwise(rows):
        hole = set(range(before.slot + 1, after.slot))
        fill = 0 < len(hole) <= HOLE_MAX and len(rows) >= ROWS_MIN and fits and not hole & full
        assert hole & set(slots) == (hole if fill else set())
    assert slots[0] == rows[0].slot
    assert slots[-1] == rows[-1].slot


@pytest.mark.parametrize(
    ("slots", "added"),
    [
        (range(7), [7]),
        (range(3, 14), [14]),
        (range(5, 16), [4]),
        (range(3), []),
        (range(8), []),
        (range(6), []),
        ([*range(7), *range(9, 12)], [7]),
        ([*range(1, 8), *range(9, 16)], [8]),
    ],
)
def test_whole_tiles(slots: Iterable[int], added: list[int]) -> None:
    rows = [DecodeRow(slot, 20, 1) for slot in slots]
    completed = complete_tiles(rows, 16, lambda slot: 10)
    assert [row.slot for row in completed if row not in rows] == added


def test_no_row_is_added_that_looks_at_more_than_the_others() -> None:
    rows = [DecodeRow(slot, 20, 1) for slot in range(1, 8)]
    lengths = {0: CELLS_UNIT - 1, 8: CELLS_UNIT}
    assert complete_tiles(rows, 16, lengths.get)[0] == DecodeRow(0, CELLS_UNIT - 1, 0)
    assert complete_tiles(rows, 16, {8: CELLS_UNIT}.get) == tuple(rows)


def test_a_filled_hole_changes_nobodys_tokens(tiny_quantized_model_path: Path) -> None:
    config = BackendConfig(sequences=6, context_per_sequence=256, threads=2)
    other = LlamaCppBackend(str(tiny_quantized_model_path), config, lambda fraction: None)
    prompts = {slot: prompt_of(10 + slot, 20 + slot) for slot in range(6)}

    def begun(slot: int) -> DecodeRow:
        token = other.execute(prefill(slot, prompts[slot])).tokens[0].token
        return DecodeRow(slot, len(prompts[slot]), token)

    rows = {slot: begun(slot) for slot in prompts}
    alone = {slot: other.execute(Step(2, decodes=(row,))).tokens[0] for slot, row in rows.items()}
    rows = {slot: begun(slot) for slot in prompts}
    together = other.execute(Step(3, decodes=tuple(rows[slot] for slot in (0, 1, 3, 5)))).tokens
    assert together == tuple(alone[slot] for slot in (0, 1, 3, 5))
    # What was in the holes is there as it was.
    for slot in (2, 4):
        assert other.execute(Step(4, decodes=(rows[slot],))).tokens == (alone[slot],)
    other.close()
