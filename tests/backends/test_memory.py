"""What a model will take, against what it takes; and what cannot fit is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.backend import BackendConfig, LoadError
from llm_serving_engine.backends.llama_cpp import memory
from llm_serving_engine.backends.llama_cpp.memory import estimate_memory
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.memory_estimate import MemoryEstimate, check_fits, size
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.process.host import ProcessRunner
from llm_serving_engine.backends.quantize import quantize

TOLERANCE = 0.15
ESTIMATE = MemoryEstimate(weights=400, repacked=300, cache=200, buffers=100)


@pytest.fixture(scope="module")
def q4_0_path(builtin_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "q4_0.gguf"
    quantize(builtin_model_path, path, "Q4_0")
    return path


@pytest.mark.parametrize(
    "config",
    [
        # The load of the first one measures attention and unit; the others leave nothing open.
        BackendConfig(sequences=16, context_per_sequence=256, threads=1),
        BackendConfig(2, 2048, threads=1, prefill_chunk=256, flash_attention=True),
        BackendConfig(4, 1024, threads=1, prefill_chunk=64, cache_type="q8_0"),
        BackendConfig(4, 512, threads=1, prefill_chunk=128, flash_attention=False),
    ],
)
@pytest.mark.parametrize("model", ["builtin_model_path", "q4_0_path", "tiny_model_path"])
async def test_the_estimate_is_near(
    model: str, config: BackendConfig, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(model)
    if model == "tiny_model_path":
        config = replace(config, context_per_sequence=256, cache_type="f16")
    runner = ProcessRunner("llama.cpp", str(path), config)
    try:
        report = await runner.start()
        assert report.estimated_bytes == pytest.approx(runner.memory_bytes, rel=TOLERANCE)
        assert report.estimated_bytes == pytest.approx(
            sum(report.memory_bytes.values()), rel=TOLERANCE
        )
    finally:
        await runner.close()


def test_what_a_type_of_weights_adds(
    builtin_model_path: Path, q4_0_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = [ModelInfo.read(path) for path in (builtin_model_path, q4_0_path)]

    def repacked(machine_name: str, gpu_layers: int = 0) -> list[int]:
        monkeypatch.setattr(memory.platform, "machine", lambda: machine_name)  # type: ignore[attr-defined]
        config = BackendConfig(threads=1, gpu_layers=gpu_layers)
        settings = [Settings.choose(config, info) for info in infos]
        return [estimate_memory(*both).repacked for both in zip(infos, settings, strict=True)]

    matrices = infos[1].matrix_bytes["Q4_0"]
    assert repacked("x86_64") == [0, matrices]
    assert repacked("arm64") == [0, matrices]
    assert repacked("arm64", gpu_layers=-1) == [0, 0]
    # The embeddings are Q8_0, and are looked up.
    assert infos[1].matrix_bytes.keys() == {"Q4_0"}


def test_fitting_to_the_last_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 700)
    check_fits(ESTIMATE, None)
    check_fits(ESTIMATE, 1000)
    with pytest.raises(LoadError, match="memory_bytes_max"):
        check_fits(ESTIMATE, 999)
    monkeypatch.setattr(machine, "available_memory", lambda: 699)
    with pytest.raises(LoadError, match="available"):
        check_fits(ESTIMATE, None)


def test_the_numbers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 8 * 10**9)
    large = MemoryEstimate(weights=40 * 10**9, repacked=0, cache=2 * 10**9, buffers=10**8)
    with pytest.raises(LoadError) as raised:
        check_fits(large, None)
    assert str(raised.value) == (
        "the model would take 42,100 MB (weights 40,000 MB, cache 2,000 MB, buffers 100 MB); "
        "this machine has 8,000 MB available: lower sequences or context_per_sequence"
    )


async def test_a_runner_is_not_loaded_beyond_its_limit(builtin_model_path: Path) -> None:
    # The kind of kernels is set: what is measured when the model is loaded may take more memory.
    shape = BackendConfig(
        2, 256, threads=1, prefill_chunk=64, flash_attention=True, kernels="plain"
    )
    info = ModelInfo.read(builtin_model_path)
    takes = estimate_memory(info, Settings.choose(shape, info)).total
    runner = ProcessRunner(
        "llama.cpp", str(builtin_model_path), replace(shape, memory_bytes_max=takes - 1)
    )
    with pytest.raises(LoadError, match=r"would take .* memory_bytes_max is"):
        await runner.start()
    # A little room, as an estimate is one; then it runs within what the system grants.
    limit = round(takes * (1 + TOLERANCE))
    runner = ProcessRunner(
        "llama.cpp", str(builtin_model_path), replace(shape, memory_bytes_max=limit)
    )
    try:
        await runner.start()
        assert runner.memory_bytes <= limit
    finally:
        await runner.close()


@pytest.mark.parametrize(
    ("number", "words"), [(1000, "1,000 bytes"), (10**6, "1 MB"), (2 * 10**9, "2,000 MB")]
)
def test_a_size_is_never_0_megabytes(number: int, words: str) -> None:
    assert size(number) == words
