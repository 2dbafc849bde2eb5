"""The llama.cpp backend on the tiny model, in this process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_serving_engine.backends.backend import BackendConfig, LoadError
from llm_serving_engine.backends.chunks import REPLAY_ROWS_MAX, split_chunk
from llm_serving_engine.backends.llama_cpp.backend import LlamaCppBackend
from llm_serving_engine.backends.threads import ThreadCount
from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.scheduler.step import (
    ClearSlot,
    CopyPrefix,
    DecodeRow,
    Logprobs,
    OpenSequence,
    PrefillChunk,
    SampledToken,
    Step,
)

UNIT = 16
CONTEXT = 256
CONFIG = BackendConfig(sequences=4, context_per_sequence=CONTEXT, threads=1, prefill_chunk=UNIT)
GREEDY = Sampling(temperature=0.0)
TOP = 20

Tokens = tuple[int, ...]
Position = tuple[int, Logprobs]


@pytest.fixture(scope="module")
def backend(tiny_quantized_model_path: Path) -> Iterator[LlamaCppBackend]:
    backend = LlamaCppBackend(str(tiny_quantized_model_path), CONFIG, lambda fraction: None)
    yield backend
    backend.close()


def prompt_of(seed: int, length: int) -> Tokens:
    return tuple(int(token) for token in np.random.default_rng(seed).integers(3, 300, length))


def opened(slot: int, sampling: Sampling = GREEDY) -> OpenSequence:
    return OpenSequence(slot, sampling, TOP)


def plain(sampled: SampledToken) -> Position:
    assert sampled.logprobs is not None
    return sampled.token, sampled.logprobs


def begin(
    backend: LlamaCppBackend, slot: int, prompt: Tokens, sampling: Sampling = GREEDY
) -> Position:
    """Put a prompt into a slot; its first token."""
    step = Step(1, (ClearSlot(slot),), (opened(slot, sampling),), (chunk(slot, 0, prompt),))
    result = backend.execute(step)
    assert not result.failures
    return plain(result.tokens[0])


def chunk(slot: int, position: int, tokens: Tokens, sample: bool = True) -> PrefillChunk:
    return PrefillChunk(slot, position, tokens, sample)


def alone(
    backend: LlamaCppBackend, slot: int, prompt: Tokens, sampling: Sampling = GREEDY, count: int = 8
) -> list[Position]:
    """The first `count` tokens of a sequence that runs by itself."""
    produced = [begin(backend, slot, prompt, sampling)]
    while len(produced) < count:
        row = DecodeRow(slot, len(prompt) + len(produced) - 1, produced[-1][0])
        produced.append(plain(backend.execute(Step(1, decodes=(row,))).tokens[0]))
    return produced


def test_report(backend: LlamaCppBackend) -> None:
    capabilities = backend.report.capabilities
    assert capabilities.sequences_max == 4
    assert capabilities.context_per_sequence == CONTEXT
    assert capabilities.prefill_unit == UNIT
    assert capabilities.partial_clear
    assert capabilities.prefix_copy
    assert backend.report.settings["threads"] == "1"
    memory = backend.report.memory_bytes
    assert memory.keys() == {"weights", "cache", "buffers"}
    assert memory["cache"] == 4 * CONTEXT * 2 * 2 * (2 * 16) * 2
    assert 0 < sum(memory.values()) <= psutil.Process().memory_info().rss


def test_what_the_model_says_is_what_numpy_says(backend: LlamaCppBackend) -> None:
    token, logprobs = begin(backend, 0, prompt_of(1, 20))
    assert token == logprobs.top[0][0]
    assert logprobs.chosen == logprobs.top[0][1] == max(value for _, value in logprobs.top)
    assert sum(np.exp([value for _, value in logprobs.top])) < 1


@given(st.sets(st.integers(1, 6)), st.integers(0, UNIT - 1))
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_prefill_in_any_aligned_chunks_gives_the_same_bits(
    backend: LlamaCppBackend, cuts: set[int], tail: int
) -> None:
    prompt = prompt_of(2, 6 * UNIT + 1 + tail)
    expected = alone(backend, 0, prompt, count=3)
    bounds = [0, *(cut * UNIT for cut in sorted(cuts)), len(prompt)]
    backend.execute(Step(1, (ClearSlot(1),), (opened(1),)))
    for start, stop in itertools.pairwise(bounds):
        part = chunk(1, start, prompt[start:stop], sample=stop == len(prompt))
        result = backend.execute(Step(1, prefills=(part,)))
        assert len(result.tokens) == part.sample
    assert plain(result.tokens[0]) == expected[0]
    row = DecodeRow(1, len(prompt), expected[0][0])
    assert plain(backend.execute(Step(1, decodes=(row,))).tokens[0]) == expected[1]


@pytest.mark.parametrize("cut", [1, 7, UNIT + 3, 50])
def test_chunks_that_are_not_aligned_give_nearly_the_same(
    backend: LlamaCppBackend, cut: int
) -> None:
    prompt = prompt_of(3, 60)
    token, logprobs = begin(backend, 0, prompt)
    backend.execute(
        Step(1, (ClearSlot(1),), (opened(1),), (chunk(1, 0, prompt[:cut], sample=False),))
    )
    rest = backend.execute(Step(1, prefills=(chunk(1, cut, prompt[cut:]),)))
    other_token, other = plain(rest.tokens[0])
    assert other_token == token
    assert other.chosen == pytest.approx(logprobs.chosen, abs=1e-3)


def test_copying_nothing_clears(backend: LlamaCppBackend) -> None:
    prompt = prompt_of(6, 20)
    expected = begin(backend, 0, prompt)
    begin(backend, 1, prompt_of(7, 33))
    step = Step(1, (CopyPrefix(0, 1, 0),), (opened(1),), (chunk(1, 0, prompt),))
    assert plain(backend.execute(step).tokens[0]) == expected


@given(
    st.integers(0, 100),
    st.lists(st.integers(0, 9), min_size=1, max_size=80),
    st.booleans(),
    st.integers(1, 40),
    st.integers(0, 80),
    st.booleans(),
)
def test_split_chunk(
    position: int, tokens: list[int], sample: bool, unit: int, replayed: int, aligned: bool
) -> None:
    whole = PrefillChunk(3, position, tuple(tokens), sample, min(replayed, len(tokens)))
    output = position + len(tokens) - whole.replayed
    parts = split_chunk(whole, unit, aligned=aligned)
    origin = 0 if aligned else position
    at = position
    for start, part, _ in parts:
        assert start == at
        assert part
        if start < output:
            # No part reaches over a multiple of the unit, or into the output.
            assert (start - origin) // unit == (start + len(part) - 1 - origin) // unit
            assert start + len(part) <= output
        else:
            assert len(part) <= REPLAY_ROWS_MAX
            assert len(part) > 1 or whole.replayed == 1
        at += len(part)
    assert tuple(token for _, part, _ in parts for token in part) == whole.tokens
    assert [wanted for _, _, wanted in parts] == [False] * (len(parts) - 1) + [sample]


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
