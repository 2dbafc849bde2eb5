"""The same bits beside any others: the probe that asks, and the fillers that rows need."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from steps import DRAW_WITH_LOGPROBS, begin, chunk, draw, opened, row

from llm_serving_engine.backends.backend import AMX, PLAIN, REPACK, BackendConfig, LoadError
from llm_serving_engine.backends.llama_cpp.backend import LlamaCppBackend
from llm_serving_engine.backends.llama_cpp.fillers import (
    ALONE_UP_TO,
    CELLS_UNIT,
    add_neighbours,
    complete_tiles,
)
from llm_serving_engine.backends.llama_cpp.padding import TILED_TOKENS
from llm_serving_engine.backends.llama_cpp.part import FILLER, Part
from llm_serving_engine.backends.llama_cpp.unit import INVARIANT_LENGTHS
from llm_serving_engine.scheduler.step import (
    Copy,
    Drop,
    Output,
    Restore,
    Run,
    RunResult,
    Save,
    Step,
)

# The tests cut prompts at multiples of 64 themselves.
CONFIG = BackendConfig(
    sequences=4, context_per_sequence=1024, threads=2, batch_invariant=True, prefill_chunk=64
)


@pytest.fixture(scope="module")
def backend(tiny_quantized_model_path: Path) -> Iterator[LlamaCppBackend]:
    backend = LlamaCppBackend(str(tiny_quantized_model_path), CONFIG, lambda fraction: None)
    yield backend
    backend.close()


def prompt_of(seed: int, length: int) -> tuple[int, ...]:
    return tuple(int(token) for token in np.random.default_rng(seed).integers(3, 300, length))


def test_the_probe_tells_kernels_apart(tiny_model_path: Path, backend: LlamaCppBackend) -> None:
    # F32's kernel adds up in another order when there are more rows; Q8_0's does not.
    assert backend.report.capabilities.batch_invariant
    other = LlamaCppBackend(str(tiny_model_path), CONFIG, lambda fraction: None)
    assert not other.report.capabilities.batch_invariant
    other.close()


@pytest.mark.parametrize(("sequences", "chunk"), [(1, 64), (2, 1), (2, 1024)])
def test_the_probe_where_there_is_little_room(
    tiny_quantized_model_path: Path, sequences: int, chunk: int
) -> None:
    config = replace(CONFIG, sequences=sequences, prefill_chunk=chunk)
    other = LlamaCppBackend(str(tiny_quantized_model_path), config, lambda fraction: None)
    assert other.report.capabilities.batch_invariant
    other.close()


def test_output_that_is_computed_again_needs_flash_attention(
    tiny_quantized_model_path: Path,
) -> None:
    config = replace(CONFIG, flash_attention=False)
    with pytest.raises(LoadError, match="flash_attention = false is not possible"):
        LlamaCppBackend(str(tiny_quantized_model_path), config, lambda fraction: None)


def test_a_snapshot_is_the_same_cache(backend: LlamaCppBackend) -> None:
    prompt = prompt_of(1, 300)
    token, _ = begin(backend, 0, prompt)
    undisturbed = draw(backend, row(0, 300, token))
    begin(backend, 0, prompt)
    backend.execute(Step(3, (Save(0, 7, 300),)))
    begin(backend, 0, prompt_of(2, 20))
    backend.execute(Step(4, (Restore(2, 7, 300), opened(2))))
    assert draw(backend, row(2, 300, token)) == undisturbed
    # It is there until it is dropped.
    backend.execute(Step(5, (Restore(1, 7, 300), Drop(7), opened(1))))
    assert draw(backend, row(1, 300, token)) == undisturbed
    gone = backend.execute(Step(6, (Restore(1, 7, 300),)))
    assert gone.failed == (0,)
    assert backend.execute(Step(7, (), (row(1, 300, token),))).runs == (RunResult(1, 0),)


@pytest.mark.parametrize("length", [100, 128, 129, 550])
@pytest.mark.parametrize("beside", [True, False])
def test_output_that_is_computed_again_has_the_same_bits(
    backend: LlamaCppBackend, length: int, beside: bool
) -> None:
    prompt = prompt_of(2, length)
    tokens = [begin(backend, 0, prompt)]
    begin(backend, 1, prompt_of(3, 7))
    for position in range(length, length + 100):
        rows = [row(0, position, tokens[-1][0])]
        if beside:
            rows.append(row(1, position - length + 7, 9))
        tokens.append(draw(backend, *rows)[0])
    for produced in (1, 2, 33, 64, 70, 100):
        output = tuple(token for token, _ in tokens[:produced])
        begin(backend, 2, prompt)
        parts = -(-produced // (TILED_TOKENS // 2))
        bounds = [produced * part // parts for part in range(parts + 1)]
        for start, stop in itertools.pairwise(bounds):
            # As the scheduler cuts it; a single token of it is a row again.
            again = draw(backend, chunk(2, output[start:stop], length + start))
        assert again[0] == tokens[produced]


def test_a_lone_row_of_a_long_sequence_has_the_bits_that_it_has_beside_others(
    backend: LlamaCppBackend,
) -> None:
    prompt = prompt_of(2, 700)
    token, _ = begin(backend, 0, prompt)
    lone = draw(backend, row(0, 700, token))
    begin(backend, 0, prompt)
    for slot in (1, 2):
        begin(backend, slot, prompt_of(slot, 30))
    beside = draw(backend, row(0, 700, token), row(1, 30, 5), row(2, 30, 6))
    assert lone[0] == beside[0]


def test_fillers_leave_nothing_behind(backend: LlamaCppBackend) -> None:
    token, _ = begin(backend, 0, prompt_of(3, 400))
    kept = prompt_of(4, 50)
    begin(backend, 1, kept)
    for position in range(400, 420):
        token, _ = draw(backend, row(0, position, token))[0]
    # What slot 1 holds is still what it held: a prompt that goes on from there agrees.
    longer = (*kept, 9, 10)
    reused = draw(backend, opened(1), chunk(1, longer[50:], 50))
    assert reused[0][0] == begin(backend, 2, longer)[0]


def test_a_copied_prefix_gives_the_same_bits(backend: LlamaCppBackend) -> None:
    prompt = prompt_of(5, 200)
    begin(backend, 0, prompt[:150])
    expected = begin(backend, 1, prompt)
    backend.execute(Step(1, (Copy(0, 1, 128),)))
    backend.execute(Step(1, (opened(1),), (chunk(1, prompt[128:192], 128, Output.NONE),)))
    assert draw(backend, chunk(1, prompt[192:], 192)) == [expected]


slots_and_positions = st.dictionaries(st.integers(0, 7), st.integers(0, 999), min_size=1)


@given(slots_and_positions, st.sets(st.integers(0, 7)))
def test_a_row_that_needs_a_neighbour_gets_one_where_there_is_room(
    positions: dict[int, int], full: set[int]
) -> None:
    rows = tuple(Part(slot, position, (1,)) for slot, position in sorted(positions.items()))
    together = add_neighbours(rows, 8, lambda slot: None if slot in full else 3)
    slots = [row.slot for row in together]
    assert slots == sorted(set(slots))
    assert set(rows) <= set(together)
    for one in rows:
        neighbours = {one.slot - 1, one.slot + 1} & set(range(8))
        if one.start >= ALONE_UP_TO and not neighbours & set(slots):
            assert neighbours <= full
    for one in set(together) - set(rows):
        assert one.slot not in full


@pytest.mark.parametrize(
    ("slots", "added"),
    [
        (range(7), [7]),
        (range(3, 14), [14]),
        (range(5, 16), [4]),
        (range(3), [3]),
        (range(2), []),
        (range(12), []),
        (range(13), [13, 14, 15]),
        (range(1, 14), [0, 14, 15]),
        (range(2, 16), [0, 1]),
        (range(15), [15]),
        (range(8), []),
        (range(6), []),
        ([*range(7), *range(9, 12)], [7, 12]),
        ([*range(1, 8), *range(9, 16)], [8]),
    ],
)
def test_whole_tiles(slots: Iterable[int], added: list[int]) -> None:
    rows = [Part(slot, 20, (1,)) for slot in slots]
    completed = complete_tiles(rows, 16, lambda slot: 10, REPACK)
    assert [row.slot for row in completed if row not in rows] == added


def test_three_rows_of_weights_that_are_not_repacked_stay_three() -> None:
    rows = [Part(slot, 20, (1,)) for slot in range(3)]
    assert complete_tiles(rows, 16, lambda slot: 10, PLAIN) == rows


def test_kernels_that_take_any_number_of_rows_at_once_get_no_fillers() -> None:
    rows = [Part(slot, 20, (1,)) for slot in range(13)]
    assert complete_tiles(rows, 16, lambda slot: 10, AMX) == rows


def test_a_large_tile_is_filled_up_or_left_as_it_is() -> None:
    rows = [Part(slot, 20, (1,)) for slot in range(1, 15)]
    assert complete_tiles(rows, 16, {0: 10}.get, REPACK) == rows
    assert len(complete_tiles(rows, 16, {0: 10, 15: 0}.get, REPACK)) == 16


def test_no_row_is_added_that_looks_at_more_than_the_others() -> None:
    rows = [Part(slot, 20, (1,)) for slot in range(1, 8)]
    lengths = {0: CELLS_UNIT - 1, 8: CELLS_UNIT}
    assert complete_tiles(rows, 16, lengths.get, REPACK)[0] == Part(
        0, CELLS_UNIT - 1, FILLER, wanted=False
    )
    assert complete_tiles(rows, 16, {8: CELLS_UNIT}.get, REPACK) == rows


def test_a_filled_hole_changes_no_tokens(tiny_quantized_model_path: Path) -> None:
    config = BackendConfig(sequences=6, context_per_sequence=256, threads=2)
    other = LlamaCppBackend(str(tiny_quantized_model_path), config, lambda fraction: None)
    prompts = {slot: prompt_of(10 + slot, 20 + slot) for slot in range(6)}

    def begun(slot: int) -> Run:
        token, _ = begin(other, slot, prompts[slot])
        return row(slot, len(prompts[slot]), token)

    rows = {slot: begun(slot) for slot in prompts}
    lone = {slot: draw(other, one)[0] for slot, one in rows.items()}
    rows = {slot: begun(slot) for slot in prompts}
    together = draw(other, *(rows[slot] for slot in (0, 1, 3, 5)))
    assert together == [lone[slot] for slot in (0, 1, 3, 5)]
    # What was in the holes is there as it was.
    for slot in (2, 4):
        assert draw(other, rows[slot]) == [lone[slot]]
    other.close()


@pytest.mark.parametrize("unit", INVARIANT_LENGTHS)
def test_each_unit_gives_the_bits_that_a_prompt_has_alone(
    tiny_quantized_model_path: Path, unit: int
) -> None:
    config = replace(CONFIG, prefill_chunk=unit)
    path = str(tiny_quantized_model_path)
    other = LlamaCppBackend(path, config, lambda fraction: None)
    assert other.report.capabilities.batch_invariant
    length = 2 * unit + 70
    prompt, neighbour = prompt_of(6, length), prompt_of(7, length - 3)
    token, lone = begin(other, 1, prompt)
    after = draw(other, row(1, length, token))
    held = begin(other, 0, prompt_of(8, 40))
    other.execute(Step(1, (opened(1), opened(2))))
    for start in range(0, length, unit):
        output = DRAW_WITH_LOGPROBS if start + unit >= length else Output.NONE
        mine, its = (
            chunk(slot, tokens[start : start + unit], start, output)
            for slot, tokens in ((1, prompt), (2, neighbour))
        )
        # Chunks that have room in one call share it, the shorter one padded.
        together = 2 * unit <= other.report.capabilities.call_tokens_max
        drawn = draw(other, mine, its) if together else draw(other, mine) + draw(other, its)
        held = draw(other, row(0, 40 + start // unit, held[0]))[0]
    assert drawn[0] == (token, lone)
    rows = (row(0, 40 + -(-length // unit), held[0]), row(1, length, token), row(2, length - 3, 9))
    assert draw(other, *rows)[1:2] == after
    other.close()
