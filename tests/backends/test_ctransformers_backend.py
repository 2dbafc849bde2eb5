"""The ctransformers backend: what it computes, what it shares, and what it refuses."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_cases import missing_library
from ggml_model import CONTEXT, write_ggml_model
from steps import Drawn, alone, row
from tiny_falcon import write_tiny_falcon

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.backend import Backend, BackendConfig, LoadError, Progress
from llm_serving_engine.backends.ctransformers import library
from llm_serving_engine.backends.ctransformers.backend import CTransformersBackend
from llm_serving_engine.backends.ctransformers.settings import Needs, Settings
from llm_serving_engine.backends.llama_cpp.backend import LlamaCppBackend
from llm_serving_engine.backends.models.ggml_file import LAYOUTS
from llm_serving_engine.backends.sampler import log_sum_exp
from llm_serving_engine.scheduler.step import RunResult, Step

CONFIG = BackendConfig(sequences=2, context_per_sequence=CONTEXT, threads=1)
PROMPT = tuple(int(token) for token in np.random.default_rng(5).integers(3, 250, 70))
COUNT = 40
GIGABYTE = 10**9

Load = Callable[..., CTransformersBackend]


@pytest.fixture
def load() -> Iterator[Load]:
    """Loads backends that are closed at the end."""
    if missing_library():
        pytest.skip(missing_library())
    loaded: list[CTransformersBackend] = []

    def load_one(
        path: Path, on_progress: Progress = lambda fraction: None, **settings: Any
    ) -> CTransformersBackend:
        config = replace(CONFIG, **settings)
        loaded.append(CTransformersBackend(str(path), config, on_progress))
        return loaded[-1]

    yield load_one
    for backend in loaded:
        backend.close()


def greedy(backend: Backend, slot: int = 0) -> list[Drawn]:
    """What follows the prompt."""
    return alone(backend, slot, PROMPT, count=COUNT)


# What it computes


@pytest.mark.parametrize("architecture", LAYOUTS)
def test_what_ctransformers_itself_computes(architecture: str, load: Load, tmp_path: Path) -> None:
    from ctransformers.llm import LLM, Config

    path = write_ggml_model(tmp_path / "model.bin", architecture)
    ours = greedy(load(path, architecture=architecture), slot=1)
    theirs = LLM(str(path), architecture, config=Config(threads=1, context_length=CONTEXT))
    theirs.eval(PROMPT)
    for token, logprobs in ours:
        logits = np.array(theirs.logits, np.float32)
        assert int(logits.argmax()) == token
        assert logprobs is not None
        likelihood = float(logits.max()) - log_sum_exp(logits)
        assert logprobs.chosen == pytest.approx(likelihood, abs=1e-3)
        theirs.eval([token])


@pytest.mark.parametrize("write", ["write_tiny_model", "write_tiny_falcon"])
def test_what_llama_cpp_computes(
    write: str, write_tiny_model: Callable[..., Path], load: Load, tmp_path: Path
) -> None:
    writers = {"write_tiny_model": write_tiny_model, "write_tiny_falcon": write_tiny_falcon}
    path = writers[write](tmp_path / "model.gguf")
    other = LlamaCppBackend(str(path), CONFIG, lambda fraction: None)
    for (token, one), (other_token, another) in zip(greedy(load(path)), greedy(other), strict=True):
        assert token == other_token
        assert one is not None
        assert another is not None
        # The caches are of 16 bits, and the kernels of other years.
        assert one.chosen == pytest.approx(another.chosen, abs=0.02)
    other.close()


def test_a_run_beyond_what_the_slot_holds_is_refused(load: Load, tiny_model_path: Path) -> None:
    backend = load(tiny_model_path)
    expected = greedy(backend)
    result = backend.execute(Step(1, (), (row(0, len(PROMPT) + COUNT, 5),)))
    assert result.runs == (RunResult(0, 0),)
    assert greedy(backend) == expected


# What it takes


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what is mapped")
def test_weights_are_mapped_once(load: Load, tiny_model_path: Path) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(tiny_model_path))

    # Backends of other tests may have the same file.
    before = mapped()
    backend = load(tiny_model_path, sequences=8)
    assert mapped() == before + 1
    weights = load(tiny_model_path, sequences=1).report.memory_bytes["weights"]
    assert backend.report.memory_bytes["weights"] == weights > 100_000


def test_a_legacy_file_is_read_for_each_sequence(load: Load, tmp_path: Path) -> None:
    path = write_ggml_model(tmp_path / "model.bin", "gpt2")
    one = load(path, architecture="gpt2", sequences=1).report
    three = load(path, architecture="gpt2", sequences=3).report
    assert three.memory_bytes["weights"] == 3 * one.memory_bytes["weights"]
    assert three.memory_bytes["cache"] == 3 * one.memory_bytes["cache"]


def test_progress_goes_up_to_one(load: Load, tiny_model_path: Path, tmp_path: Path) -> None:
    legacy = write_ggml_model(tmp_path / "model.bin", "mpt")
    for path in (tiny_model_path, legacy):
        told: list[float] = []
        load(path, on_progress=told.append, architecture="mpt")
        assert told == sorted(told)
        assert told[-1] == 1.0


def choose(config: BackendConfig, available: int, **needs: Any) -> tuple[int, int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "available_memory", lambda: available)
        settings = Settings.choose(
            config, Needs(**{"training_context": 4096, "weights_bytes": 1, **needs})
        )
    return settings.sequences, settings.context_per_sequence


def test_sequences_are_as_many_as_fit() -> None:
    free = BackendConfig()
    assert choose(free, 100 * GIGABYTE, token_bytes=1000) == (8, 2048)
    # A quarter of what is available, for caches.
    assert choose(free, 4 * 8 * 2048 * 1000 - 1, token_bytes=1000) == (4, 2048)
    assert choose(free, 1, token_bytes=1000) == (1, 2048)
    assert choose(BackendConfig(sequences=3), 1, token_bytes=1000) == (3, 2048)
    limited = BackendConfig(memory_bytes_max=4 * 2 * 2048 * 1000)
    assert choose(limited, 100 * GIGABYTE, token_bytes=1000) == (2, 2048)
    # A half, where each has weights of its own, and the context that the file says.
    copies = {
        "token_bytes": 1000,
        "weights_bytes": GIGABYTE,
        "copied": True,
        "fixed_context": True,
    }
    each = GIGABYTE + 4096 * 1000
    assert choose(free, 2 * 8 * each, **copies) == (8, 4096)
    assert choose(free, 2 * 8 * each - 1, **copies) == (4, 4096)
    assert choose(BackendConfig(context_per_sequence=100), 2 * 8 * each, **copies) == (8, 100)


# What it refuses


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cache_type": "q8_0"}, "cache_type is 'q8_0'; ctransformers has no other than f16"),
        ({"gpu_layers": -1}, "gpu_layers is -1; ctransformers runs on the CPU"),
        ({"sequences": 257}, r"model\.runner\.sequences is 257; it can be 1 to 256"),
        ({"context_per_sequence": 1025}, "the model was trained for 1024"),
        ({"memory_bytes_max": 10**6}, "memory_bytes_max is 1 MB: lower sequences"),
    ],
)
def test_settings_that_cannot_be(
    settings: dict[str, Any], words: str, load: Load, tiny_model_path: Path
) -> None:
    with pytest.raises(LoadError, match=words):
        load(tiny_model_path, **settings)


def replacing(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def replaced(model: bytes) -> bytes:
        assert old in model
        return model.replace(old, new)

    return replaced


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (replacing(b"output.weight", b"outpux.weight"), "shares the weights of its embeddings"),
        (replacing(b"blk.1.attn_q.weight", b"blk.1.attn_x.weight"), "not found"),
        (lambda model: model[: len(model) // 2], "truncated"),
        (lambda model: b"nothing" * 10, "not a GGUF file"),
    ],
)
def test_files_that_it_cannot_run(
    spoil: Callable[[bytes], bytes],
    words: str,
    load: Load,
    tiny_model_path: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(spoil(tiny_model_path.read_bytes()))
    with pytest.raises(LoadError, match=words) as raised:
        load(path)
    assert "\n" not in str(raised.value)


def test_newer_vocabularies_and_architectures(
    load: Load, write_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    bpe = write_tiny_model(tmp_path / "bpe.gguf", pre_tokenizer="tekken")
    with pytest.raises(LoadError, match="a llama model with a vocabulary of type 'gpt2'"):
        load(bpe)
    other = write_tiny_model(tmp_path / "other.gguf", architecture="qwen2")
    with pytest.raises(LoadError, match=r"the architecture 'qwen2': it knows llama and falcon"):
        load(other)


def test_tied_embeddings(load: Load, builtin_model_path: Path) -> None:
    with pytest.raises(LoadError, match=r"ctransformers cannot run .*; use the backend llama.cpp"):
        load(builtin_model_path)


def test_why_a_legacy_file_does_not_load(load: Load, tmp_path: Path) -> None:
    path = write_ggml_model(tmp_path / "model.bin", "gpt2")
    path.write_bytes(path.read_bytes().replace(b"model/ln_f/g", b"model/ln_x/g"))
    with pytest.raises(LoadError, match="unknown tensor 'model/ln_x/g'") as raised:
        load(path, architecture="gpt2")
    assert "\n" not in str(raised.value)


def test_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.3.0")
    with pytest.raises(LoadError, match=r"ctransformers 0\.3\.0 is installed; 0\.2\.27 is needed"):
        library.library.__wrapped__()


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(LoadError, match="cannot be imported") as raised:
        library.library.__wrapped__()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("flags", "variant"),
    [
        ("flags : fpu avx avx2 f16c fma", "avx2"),
        ("flags : fpu avx f16c", "avx"),
        ("Features : fp asimd", "basic"),
        (None, None),
    ],
)
def test_the_build_for_the_processor(
    flags: str | None, variant: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpuinfo"
    if flags is not None:
        path.write_text(flags)
    monkeypatch.setattr(library, "_PROCESSOR", path)
    assert library._variant() == variant


def test_a_library_of_another_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_library(variant: str | None) -> None:
        raise OSError("invalid ELF header")

    monkeypatch.setattr("ctransformers.llm.load_library", load_library)
    with pytest.raises(LoadError, match="no library for this platform: invalid ELF header"):
        library.library.__wrapped__()
