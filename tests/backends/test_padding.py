"""Prompt chunks of several sequences in one call: which, and that no bits change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from steps import Drawn, Tokens, chunk, draw, opened, row

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.llama_cpp.backend import LlamaCppBackend
from llm_serving_engine.backends.llama_cpp.padding import (
    TILED_TOKENS,
    fits,
    padded,
    same_kernels,
)
from llm_serving_engine.backends.llama_cpp.part import Part
from llm_serving_engine.scheduler.step import Run, Step

CONTEXT = 256
CONFIG = BackendConfig(
    sequences=6, context_per_sequence=CONTEXT, threads=1, prefill_chunk=64, batch_invariant=True
)


def part(length: int, start: int = 0) -> Part:
    return Part(0, start, (1,) * length)


def test_shorter_parts_are_filled_up() -> None:
    assert [one.padding for one in padded([part(2), part(3), part(2)])] == [1, 0, 1]
    assert [one.padding for one in padded([part(3), part(3)])] == [0, 0]


def test_padding_needs_room() -> None:
    assert fits([part(2, 15), part(3, 10)], 18)
    assert not fits([part(2, 16), part(3, 10)], 18)


def test_padding_does_not_change_the_kernel() -> None:
    below = TILED_TOKENS - 1
    assert same_kernels([part(below), part(below - 1)])
    assert not same_kernels([part(below), part(below + 1)])
    assert same_kernels([part(below + 1), part(below + 2)])


@pytest.fixture(scope="module")
def backend(tiny_quantized_model_path: Path) -> Iterator[LlamaCppBackend]:
    backend = LlamaCppBackend(str(tiny_quantized_model_path), CONFIG, lambda fraction: None)
    yield backend
    backend.close()


def prompt_of(slot: int, length: int) -> Tokens:
    return tuple(int(token) for token in np.random.default_rng(slot).integers(3, 300, length))


def prefill(backend: LlamaCppBackend, *runs: Run) -> list[Drawn]:
    """The tokens of prompts that are computed in one step."""
    return draw(backend, *(opened(run.slot) for run in runs), *runs)


def decode(backend: LlamaCppBackend, runs: list[Run]) -> list[Drawn]:
    """The tokens after a token that follows each prompt."""
    return draw(backend, *(row(run.slot, run.end, 7) for run in runs))


@pytest.mark.parametrize("lengths", [(16,) * 6, (34, 37, 36, 34), (62, 63), (62, 66), (70, 66)])
def test_the_same_bits_together_as_alone(
    backend: LlamaCppBackend, lengths: tuple[int, ...]
) -> None:
    runs = [chunk(slot, prompt_of(slot, length)) for slot, length in enumerate(lengths)]
    alone = [prefill(backend, run)[0] for run in runs]
    assert prefill(backend, *runs) == alone


def test_padding_leaves_nothing_behind(backend: LlamaCppBackend) -> None:
    runs = [chunk(slot, prompt_of(slot, length)) for slot, length in enumerate((34, 37, 36))]
    expected: list[Drawn] = []
    for run in runs:
        prefill(backend, run)
        expected += decode(backend, [run])
    prefill(backend, *runs)
    assert decode(backend, runs) == expected


def test_a_run_without_room_fails_alone(backend: LlamaCppBackend) -> None:
    runs = [chunk(slot, prompt_of(slot, 16)) for slot in (0, 2)]
    expected = prefill(backend, *runs)
    prefill(backend, chunk(1, prompt_of(1, CONTEXT - 4)[:200]))
    draw(backend, chunk(1, prompt_of(3, 52), 200))
    full = chunk(1, prompt_of(4, 16), CONTEXT - 4)
    result = backend.execute(Step(2, (opened(0), opened(2)), (runs[0], full, runs[1])))
    assert [one.tokens for one in result.runs] == [(expected[0][0],), (), (expected[1][0],)]
    assert [one.error for one in result.runs] == [None, "the cache is full", None]
    # Its slot is empty.
    assert backend.execute(Step(3, (), (row(1, 1, 5),))).runs[0].done == 0
