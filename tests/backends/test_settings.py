"""Which settings are chosen, from the machine and the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.backend import BackendConfig, LoadError
from llm_serving_engine.backends.llama_cpp.settings import CACHE_TYPES, Settings
from llm_serving_engine.backends.models.info import ModelInfo

GIGABYTE = 10**9


@pytest.fixture
def info(tiny_model_path: Path) -> ModelInfo:
    """A model with a long context whose cache takes 256 bytes a token and cache type f16."""
    info = replace(ModelInfo.read(tiny_model_path), training_context=100_000)
    assert info.cache_bytes_per_token(CACHE_TYPES["f16"]) == 2 * 2 * (2 * 16) * 2
    return info


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 100 * GIGABYTE)
    monkeypatch.setattr(machine, "compute_threads", lambda: 3)
    monkeypatch.setattr(machine, "apple_silicon", lambda: False)


def shape(settings: Settings) -> tuple[int, int]:
    return settings.sequences, settings.context_per_sequence


def test_defaults_on_a_large_machine(info: ModelInfo) -> None:
    assert Settings.choose(BackendConfig(), info) == Settings(
        sequences=16,
        context_per_sequence=2048,
        threads=3,
        prefill_chunk=64,
        cache_type="f16",
        flash_attention=True,
        gpu_layers=0,
    )


def test_apple_silicon(info: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "apple_silicon", lambda: True)
    settings = Settings.choose(BackendConfig(), info)
    assert (settings.gpu_layers, settings.prefill_chunk) == (-1, 512)
    on_cpu = Settings.choose(BackendConfig(gpu_layers=0), info)
    assert (on_cpu.gpu_layers, on_cpu.prefill_chunk) == (0, 64)


def test_what_is_configured_stays(info: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 1)
    config = BackendConfig(
        sequences=5,
        context_per_sequence=512,
        threads=7,
        prefill_chunk=32,
        cache_type="q8_0",
        gpu_layers=2,
    )
    assert Settings.choose(config, info) == Settings(5, 512, 7, 32, "q8_0", True, 2)


def test_a_chunk_is_no_longer_than_a_slot(info: ModelInfo) -> None:
    for chunk, used in ((511, 511), (512, 512), (513, 512), (10**6, 512)):
        config = BackendConfig(context_per_sequence=512, prefill_chunk=chunk)
        assert Settings.choose(config, info).prefill_chunk == used


@pytest.mark.parametrize(
    ("cache_bytes", "expected"),
    [
        (16 * 2048 * 256, (16, 2048)),
        (16 * 2048 * 256 - 1, (16, 1024)),
        (16 * 512 * 256, (16, 512)),
        (16 * 512 * 256 - 1, (8, 512)),
        (1, (1, 512)),
    ],
)
def test_a_small_machine_gets_less_context_then_fewer_sequences(
    info: ModelInfo,
    monkeypatch: pytest.MonkeyPatch,
    cache_bytes: int,
    expected: tuple[int, int],
) -> None:
    # The cache may take a quarter of what is available.
    monkeypatch.setattr(machine, "available_memory", lambda: cache_bytes * 4)
    assert shape(Settings.choose(BackendConfig(), info)) == expected


def test_only_what_is_left_open_is_cut(info: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 4 * 2048 * 256 * 4)
    assert shape(Settings.choose(BackendConfig(context_per_sequence=2048), info)) == (4, 2048)
    assert shape(Settings.choose(BackendConfig(sequences=16), info)) == (16, 512)


def test_a_smaller_cache_type_leaves_more(info: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 16 * 2048 * 256 * 4 * 3 // 5)
    assert shape(Settings.choose(BackendConfig(), info)) == (16, 1024)
    assert shape(Settings.choose(BackendConfig(cache_type="q8_0"), info)) == (16, 2048)


def test_the_context_is_the_models_and_whole_units(info: ModelInfo) -> None:
    short = replace(info, training_context=700)
    assert shape(Settings.choose(BackendConfig(), short)) == (16, 768)
    unknown = replace(info, training_context=0)
    assert shape(Settings.choose(BackendConfig(), unknown)) == (16, 2048)
    assert shape(Settings.choose(BackendConfig(context_per_sequence=257), info)) == (16, 512)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (BackendConfig(cache_type="q1"), r"model\.runner\.cache_type is 'q1'; it can be one of: f"),
        (
            BackendConfig(cache_type="q8_0", flash_attention=False),
            'flash_attention = false is not possible with model.runner.cache_type = "q8_0"',
        ),
        (BackendConfig(sequences=257), r"model\.runner\.sequences is 257; it can be 1 to 256"),
        (BackendConfig(context_per_sequence=100_001), "the model was trained for 100000"),
    ],
)
def test_what_cannot_be(info: ModelInfo, config: BackendConfig, words: str) -> None:
    with pytest.raises(LoadError, match=words):
        Settings.choose(config, info)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sequences": 0}, "sequences is 0"),
        ({"context_per_sequence": 0}, "context_per_sequence is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"prefill_chunk": 0}, "prefill_chunk is 0"),
        ({"gpu_layers": -2}, "gpu_layers is -2; it can be -1 to 2147483647"),
        ({"sequences": 1025}, "it can be 1 to 1024, with llama.cpp and ctransformers 1 to 256"),
        ({"context_per_sequence": 2**24 + 1}, "context_per_sequence is 16777217; it can be"),
        ({"threads": 513}, "threads is 513; it can be 1 to 512"),
        ({"prefill_chunk": 2**31}, "prefill_chunk is 2147483648; it can be"),
        ({"memory_bytes_max": 2**63}, "memory_bytes_max is 9223372036854775808; it can be"),
    ],
)
def test_what_no_backend_can(fields: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BackendConfig(**fields)  # type: ignore[arg-type]


def test_described(info: ModelInfo) -> None:
    described = Settings.choose(BackendConfig(gpu_layers=-1), info).described()
    assert described == {
        "sequences": "16",
        "context_per_sequence": "2048",
        "threads": "3",
        "prefill_chunk": "512",
        "cache_type": "f16",
        "flash_attention": "on",
        "kernels": "auto",
        "gpu_layers": "all",
    }


def test_the_machine_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert machine.compute_threads() >= 1
    assert machine.available_memory() > 0


@pytest.mark.parametrize(("chunk", "sequences", "rows"), [(1, 1, 32), (8, 2, 32), (8, 8, 64)])
def test_a_call_has_room_for_output_that_is_computed_again(
    info: ModelInfo, chunk: int, sequences: int, rows: int
) -> None:
    config = BackendConfig(prefill_chunk=chunk, sequences=sequences)
    assert Settings.choose(config, info).rows_max == rows
