"""The record of the build: read as it was written, and only for the libraries it is about."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llm_serving_engine.backends.build_record import (
    FILE_NAME,
    Attempt,
    BuildRecord,
    Check,
    Outcome,
    identity,
    library_folder,
    read_build_record,
    write_build_record,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a library in it."""
    (tmp_path / "libllama.so").write_bytes(b"code")
    return tmp_path


def record(folder: Path) -> BuildRecord:
    return BuildRecord(
        features="no-amx",
        cost="slower",
        compiler="g++ 12.2.0",
        cpu="A CPU",
        cpu_flags=("avx2", "fma"),
        needs=("avx2",),
        library_features=("AVX2",),
        checks={"Q4_0": Check(Outcome.OK, 0.01), "F16": Check(Outcome.CRASH, None, "SIGILL")},
        attempts=(Attempt("full", "Q4_0: SIGSEGV"),),
        libraries=identity(folder),
    )


def test_it_is_read_as_it_was_written(folder: Path) -> None:
    write_build_record(record(folder), folder)
    assert read_build_record(folder) == record(folder)
    assert [path.name for path in folder.iterdir() if path.suffix == ".partial"] == []


def test_there_is_none_for_other_libraries(folder: Path) -> None:
    write_build_record(record(folder), folder)
    (folder / "libllama.so").write_bytes(b"other code")
    assert read_build_record(folder) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"features": "full"}', "\0"])
def test_a_damaged_one_is_none(folder: Path, text: str) -> None:
    (folder / FILE_NAME).write_text(text)
    assert read_build_record(folder) is None


def test_one_with_unknown_fields_is_none(folder: Path) -> None:
    content = {**record(folder).to_json(), "unknown": 1}
    (folder / FILE_NAME).write_text(json.dumps(content))
    assert read_build_record(folder) is None


def test_it_is_ok_when_all_types_are(folder: Path) -> None:
    some = record(folder)
    assert not some.ok
    assert set(some.failures) == {"F16"}
    assert replace(some, checks={"Q4_0": Check(Outcome.OK, 0.01)}).ok
    assert not replace(some, checks={}).ok


def test_it_says_what_a_cpu_lacks(folder: Path) -> None:
    some = replace(record(folder), needs=("fma", "avx2", "amx_tile"))
    assert some.missing(frozenset({"fma", "sse4_2"})) == ["amx_tile", "avx2"]
    assert some.missing(frozenset({"fma", "avx2", "amx_tile"})) == []


def test_the_folder_is_the_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_CPP_LIB_PATH", raising=False)
    folder = library_folder()
    assert folder is not None
    assert list(folder.glob("libllama.*"))


def test_the_folder_can_be_given_by_the_variable_of_llama_cpp_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    assert library_folder() == tmp_path
