from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llm_serving_engine.backends.models.errors import ModelFileError, ModelNotFound, QuantizeError
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.quantize import quantize
from llm_serving_engine.backends.text.tokenizer import LlamaTokenizer


@pytest.mark.parametrize("type_name", ["Q4_0", "q8_0", "F16"])
def test_writes_the_type(tiny_model_path: Path, tmp_path: Path, type_name: str) -> None:
    target = tmp_path / "out.gguf"
    seen: list[tuple[int, int]] = []
    quantize(
        tiny_model_path, target, type_name, on_progress=lambda done, all_: seen.append((done, all_))
    )
    before, after = ModelInfo.read(tiny_model_path), ModelInfo.read(target)
    assert after.quantization == type_name.upper()
    assert after.parameter_count == before.parameter_count
    assert after.weights_bytes < before.weights_bytes
    assert seen == [(number, 21) for number in range(1, 22)]
    assert LlamaTokenizer(target).encode("time", special=False)
    assert list(tmp_path.iterdir()) == [target]


def test_weights_that_are_quantized_already(tiny_model_path: Path, tmp_path: Path) -> None:
    quantize(tiny_model_path, tmp_path / "8.gguf", "Q8_0")
    quantize(tmp_path / "8.gguf", tmp_path / "4.gguf", "Q4_0")
    assert ModelInfo.read(tmp_path / "4.gguf").quantization == "Q4_0"


def test_an_unknown_type(tiny_model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="no type 'Q9'; there are: Q4_0, "):
        quantize(tiny_model_path, tmp_path / "out.gguf", "Q9")


def test_a_missing_source(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        quantize(tmp_path / "nowhere.gguf", tmp_path / "out.gguf", "Q4_0")


def test_a_source_that_is_no_model(tmp_path: Path) -> None:
    source = tmp_path / "text.gguf"
    source.write_text("not a model at all, only a text")
    with pytest.raises(ModelFileError, match="not a GGUF file"):
        quantize(source, tmp_path / "out.gguf", "Q4_0")


def test_what_llama_cpp_refuses_leaves_the_old_file(
    write_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = write_tiny_model(tmp_path / "odd.gguf", architecture="oddball")
    target = tmp_path / "out.gguf"
    target.write_text("old")
    with pytest.raises(QuantizeError, match="unknown model architecture: 'oddball'"):
        quantize(source, target, "Q4_0")
    assert target.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [source, target]


def test_a_file_is_not_written_over_itself(tiny_model_path: Path) -> None:
    with pytest.raises(QuantizeError, match="over itself"):
        quantize(tiny_model_path, tiny_model_path, "Q4_0")


def test_a_folder_that_is_not_there(tiny_model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="there is no folder"):
        quantize(tiny_model_path, tmp_path / "no" / "out.gguf", "Q4_0")
