"""Models in several files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llm_serving_engine.backends.models.errors import ModelFileError, ModelNotFound
from llm_serving_engine.backends.models.identity import FileIdentity, check_unchanged
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.models.split import PARTS_MAX, PartName, first_part
from llm_serving_engine.backends.quantize import quantize


@pytest.fixture
def parts(write_tiny_model: Callable[..., Path], tmp_path: Path) -> list[Path]:
    """The tiny model in three files."""
    write_tiny_model(tmp_path / "tiny.gguf", part_tensors_max=8)
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("m-00001-of-00003.gguf", PartName("m", 1, 3)),
        ("sub/m-00003-of-00003.gguf", PartName("sub/m", 3, 3)),
        (f"m-00001-of-{PARTS_MAX:05d}.gguf", PartName("m", 1, PARTS_MAX)),
        (f"m-00001-of-{PARTS_MAX + 1:05d}.gguf", None),
        ("m-00000-of-00003.gguf", None),
        ("m-00004-of-00003.gguf", None),
        ("m-1-of-3.gguf", None),
        ("m-00001-of-00003", None),
        ("m.gguf", None),
    ],
)
def test_names(name: str, part: PartName | None) -> None:
    assert PartName.parse(name) == part
    if part is not None:
        assert name in part.names
        assert len(part.names) == part.total


def test_any_part_tells_of_the_whole(parts: list[Path], tiny_model_path: Path) -> None:
    whole = ModelInfo.read(tiny_model_path)
    assert len(parts) == 3
    for part in parts:
        assert first_part(part) == parts[0]
        assert ModelInfo.read(part) == replace(whole, path=parts[0])


def test_missing_parts_are_named(parts: list[Path]) -> None:
    parts[1].unlink()
    with pytest.raises(ModelNotFound, match=r"the part tiny-00002-of-00003\.gguf is missing"):
        ModelInfo.read(parts[0])
    parts[0].unlink()
    with pytest.raises(ModelNotFound, match=r"the parts tiny-00001\S+, tiny-00002\S+ are missing"):
        ModelInfo.read(parts[2])


def test_a_part_of_another_model(
    parts: list[Path], write_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    write_tiny_model(folder / "tiny.gguf", part_tensors_max=7, layers=2)
    (folder / parts[1].name).replace(parts[1])
    with pytest.raises(ModelFileError, match="21 belong to the model"):
        ModelInfo.read(parts[0])


def test_a_whole_file_that_is_called_like_a_part(
    write_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_tiny_model(tmp_path / "tiny-00001-of-00001.gguf")
    assert first_part(path) == path
    assert ModelInfo.read(path).layers == 2


def test_quantize_joins_the_parts(parts: list[Path], tmp_path: Path) -> None:
    quantize(parts[0], tmp_path / "q8.gguf", "Q8_0")
    assert ModelInfo.read(tmp_path / "q8.gguf").quantization == "Q8_0"


def test_the_identity_is_that_of_all_parts(parts: list[Path]) -> None:
    loaded = FileIdentity.of(parts[0])
    check_unchanged(parts[0], loaded)
    content = parts[2].read_bytes()
    parts[2].unlink()
    with pytest.raises(ModelFileError, match="was removed while it was served"):
        check_unchanged(parts[0], loaded)
    parts[2].write_bytes(content + b"\0")
    with pytest.raises(ModelFileError, match="was replaced while it was served"):
        check_unchanged(parts[0], loaded)
