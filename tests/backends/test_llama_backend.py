"""The llama.cpp backend on the tiny model, in this process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from steps import DRAW_WITH_LOGPROBS, Drawn, Tokens, alone, begin, chunk, draw, opened, row

from llm_serving_engine.backends.backend import BackendConfig, LoadError
from llm_serving_engine.backends.llama_cpp.backend import LlamaCppBackend
from llm_serving_engine.backends.llama_cpp.tails import Tails
from llm_serving_engine.backends.threads import ThreadCount
from llm_serving_engine.scheduler.step import Output, RunResult, Step

UNIT = 16
CONTEXT = 256
CONFIG = BackendConfig(sequences=4, context_per_sequence=CONTEXT, threads=1, prefill_chunk=UNIT)


@pytest.fixture(scope="module")
def backend(tiny_quantized_model_path: Path) -> Iterator[LlamaCppBackend]:
    backend = LlamaCppBackend(str(tiny_quantized_model_path), CONFIG, lambda fraction: None)
    yield backend
    backend.close()


def test_a_model_that_is_loaded_beside_others_has_all_threads_afterwards(
    tiny_quantized_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []

    def measured(self: LlamaCppBackend, goes_on: object) -> tuple[()]:
        self._model.renew(replace(self._model.settings, prefill_chunk=2 * UNIT))
        counts.append(self._model.threads)
        return ()

    monkeypatch.setattr(ThreadCount, "after_loading", lambda self: 1)
    monkeypatch.setattr(LlamaCppBackend, "_measure", measured)
    config = replace(CONFIG, threads=2)
    backend = LlamaCppBackend(str(tiny_quantized_model_path), config, lambda fraction: None)
    assert counts == [1]
    assert backend._model.threads == 2
    assert backend.report.settings["threads"] == "2"
    backend.close()


def prompt_of(seed: int, length: int) -> Tokens:
    return tuple(int(token) for token in np.random.default_rng(seed).integers(3, 300, length))


def test_report(backend: LlamaCppBackend) -> None:
    capabilities = backend.report.capabilities
    assert capabilities.slots == 4
    assert capabilities.context == CONTEXT
    assert capabilities.chunk == UNIT
    assert capabilities.rollback is None
    assert capabilities.copy
    assert capabilities.joins
    assert all(seconds > 0 for _, seconds in capabilities.speeds)
    assert backend.report.settings["threads"] == "1"
    memory = backend.report.memory_bytes
    assert memory.keys() == {"weights", "cache", "buffers"}
    assert memory["cache"] == 4 * CONTEXT * 2 * 2 * (2 * 16) * 2
    assert 0 < sum(memory.values()) <= psutil.Process().memory_info().rss


def test_what_the_model_says_is_what_numpy_says(backend: LlamaCppBackend) -> None:
    token, logprobs = begin(backend, 0, prompt_of(1, 20))
    assert logprobs is not None
    assert token == logprobs.top[0][0]
    assert logprobs.chosen == logprobs.top[0][1] == max(value for _, value in logprobs.top)
    assert sum(np.exp([value for _, value in logprobs.top])) < 1


@pytest.mark.parametrize("tail", [1, 2, UNIT - 1, UNIT])
def test_the_same_chunks_give_the_same_bits_in_every_slot(
    backend: LlamaCppBackend, tail: int
) -> None:
    prompt = prompt_of(2, 6 * UNIT + tail)
    cuts = range(UNIT, len(prompt), UNIT)
    expected = in_chunks(backend, 0, prompt, cuts)
    assert in_chunks(backend, 3, prompt, cuts) == expected
    assert in_chunks(backend, 0, prompt, cuts) == expected


def in_chunks(
    backend: LlamaCppBackend, slot: int, prompt: Tokens, cuts: Iterable[int]
) -> list[Drawn]:
    """Two tokens after a prompt that is computed in calls that end at the cuts."""
    backend.execute(Step(1, (opened(slot),)))
    for start, stop in itertools.pairwise((0, *cuts, len(prompt))):
        output = DRAW_WITH_LOGPROBS if stop == len(prompt) else Output.NONE
        found = draw(backend, chunk(slot, prompt[start:stop], start, output))
    return found + draw(backend, row(slot, len(prompt), found[0][0]))


@pytest.mark.parametrize("cut", [1, 7, UNIT + 3, 50])
def test_chunks_that_are_not_aligned_give_nearly_the_same(
    backend: LlamaCppBackend, cut: int
) -> None:
    prompt = prompt_of(3, 60)
    token, logprobs = begin(backend, 0, prompt)
    (other_token, other), _ = in_chunks(backend, 1, prompt, (cut,))
    assert other_token == token
    assert logprobs is not None
    assert other is not None
    assert other.chosen == pytest.approx(logprobs.chosen, abs=1e-3)


def test_a_run_begins_where_it_says(backend: LlamaCppBackend) -> None:
    prompt = prompt_of(6, 20)
    expected = begin(backend, 0, prompt)
    begin(backend, 1, prompt[:15] + prompt_of(7, 18))
    # What the slot holds beyond is dropped; what it lacks is not made up.
    assert draw(backend, opened(1), chunk(1, prompt[15:], 15)) == [expected]
    assert draw(backend, opened(1), chunk(1, prompt)) == [expected]
    refused = backend.execute(Step(1, (), (chunk(1, prompt, 21),)))
    assert refused.runs == (RunResult(1, 0),)


def test_the_shape_is_of_what_was_executed(backend: LlamaCppBackend) -> None:
    for slot in (0, 1):
        begin(backend, slot, prompt_of(slot, 20))
    result = backend.execute(Step(1, (), (chunk(0, (5, 6, 7), 20), chunk(1, (5, 6), 20))))
    # The shorter chunk was filled up.
    assert result.shape is not None
    assert (result.shape.groups, result.shape.runs, result.shape.tokens) == (1, 2, 6)
    assert result.seconds > 0


def test_progress_goes_up_to_one(tiny_model_path: Path) -> None:
    told: list[float] = []
    config = BackendConfig(sequences=1, context_per_sequence=256, threads=1)
    LlamaCppBackend(str(tiny_model_path), config, told.append).close()
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize("flash_attention", [True, False])
def test_a_larger_chunk_than_the_context(tiny_model_path: Path, flash_attention: bool) -> None:
    config = replace(CONFIG, sequences=2, prefill_chunk=1024, flash_attention=flash_attention)
    backend = LlamaCppBackend(str(tiny_model_path), config, lambda fraction: None)
    assert begin(backend, 1, prompt_of(16, 250))[0] >= 0
    backend.close()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda model: model[: len(model) // 2], "truncated"),
        (lambda model: b"no model" * 10, "not a GGUF file"),
        (lambda model: model.replace(b"llama", b"xxxxx"), "architecture"),
    ],
)
def test_files_that_cannot_be_loaded(
    spoil: Callable[[bytes], bytes], words: str, tiny_model_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(spoil(tiny_model_path.read_bytes()))
    with pytest.raises(LoadError, match=words) as caught:
        LlamaCppBackend(str(path), CONFIG, lambda fraction: None)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no file"):
        LlamaCppBackend(str(tmp_path / "none.gguf"), CONFIG, lambda fraction: None)


def test_a_cache_type_that_the_model_cannot_have(tiny_model_path: Path) -> None:
    # Its heads are 16 wide, and q8_0 stores 32 elements together.
    config = replace(CONFIG, sequences=1, cache_type="q8_0")
    with pytest.raises(LoadError, match="q8_0") as caught:
        LlamaCppBackend(str(tiny_model_path), config, lambda fraction: None)
    assert "\n" not in str(caught.value)


def test_fewer_threads_compute_the_same(tiny_quantized_model_path: Path) -> None:
    config = replace(CONFIG, threads=2)
    backend = LlamaCppBackend(str(tiny_quantized_model_path), config, lambda fraction: None)
    prompt = prompt_of(31, 40)
    expected = alone(backend, 0, prompt)
    # Others have one of two cores.
    passed = itertools.count(1)
    backend._threads = ThreadCount(2, 2, lambda: next(passed) * 0.04, lambda: next(passed) * 0.04)
    produced = alone(backend, 0, prompt)
    assert backend.execute(Step(1)).threads == 1
    assert produced == expected
    backend.close()


def test_the_end_of_a_prompt_is_padded_to_a_tile(tiny_quantized_model_path: Path) -> None:
    config = replace(CONFIG, sequences=2, prefill_chunk=128)
    backend = LlamaCppBackend(str(tiny_quantized_model_path), config, lambda fraction: None)
    prompt = prompt_of(30, 60)
    expected = alone(backend, 0, prompt)
    backend._tails = Tails(token=1.0, token_growth=0.0, tile=1.0, tile_growth=0.0)
    open_, run = opened(1), chunk(1, prompt)
    result = backend.execute(Step(1, (open_,), (run,)))
    assert result.shape is not None
    assert result.shape.tokens == 64
    assert result.runs[0].done == len(prompt)
    tokens = list(result.runs[0].tokens)
    for position in range(len(prompt), len(prompt) + 7):
        tokens += [token for token, _ in draw(backend, row(1, position, tokens[-1]))]
    assert tokens == [token for token, _ in expected]
    # At the end of the context there is no room for padding.
    end = backend.execute(Step(2, runs=(chunk(1, prompt_of(31, CONTEXT - 67), 67),)))
    assert end.runs[0].done == CONTEXT - 67
    backend.close()
