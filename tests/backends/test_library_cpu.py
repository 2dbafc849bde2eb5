"""A library that was compiled for another CPU: refused in one sentence, and never loaded."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from llm_serving_engine.backends.build_record import BuildRecord, identity, write_build_record
from llm_serving_engine.backends.cpu import code_flags
from llm_serving_engine.backends.llama_library import load_cpu_backend, refuse_other_cpus
from llm_serving_engine.backends.models.errors import LibraryMissing, LibraryUnsuitable


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that llama.cpp is to be loaded from; loading what is in it fails."""
    (tmp_path / "libllama.so").write_bytes(b"\x7fELF and no more")
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    return tmp_path


def describe(folder: Path, *needs: str) -> None:
    record = BuildRecord("full", cpu="A newer CPU", needs=needs, libraries=identity(folder))
    write_build_record(record, folder)


def test_what_is_missing_is_named_with_the_remedy(library: Path) -> None:
    describe(library, *code_flags(), "a_flag_of_the_future")
    with pytest.raises(LibraryUnsuitable) as raised:
        refuse_other_cpus()
    message = str(raised.value)
    assert "compiled for another CPU (A newer CPU)" in message
    assert "does not have (a_flag_of_the_future)" in message
    assert "make setup" in message
    assert len(message.splitlines()) == 1


def test_a_cpu_that_has_everything_is_not_refused(library: Path) -> None:
    describe(library, *code_flags())
    refuse_other_cpus()


def test_a_library_without_a_record_is_not_refused(library: Path) -> None:
    assert list(library.glob("*.json")) == []
    refuse_other_cpus()


def test_the_server_says_so_and_ends(library: Path, tiny_model_path: Path) -> None:
    describe(library, "a_flag_of_the_future")
    command = [sys.executable, "-m", "llm_serving_engine", "serve", "--port", "0"]
    done = subprocess.run(
        [*command, "--http-port", "0", "--model", str(tiny_model_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "does not have (a_flag_of_the_future)" in done.stderr.splitlines()[-1]


class Ggml:
    """ggml's functions for builds with variants, of which all or none load."""

    def __init__(self, *, loads: bool) -> None:
        self.folders: list[bytes] = []

        def load_all(folder: bytes) -> None:
            self.folders.append(folder)

        def by_name(name: bytes) -> int | None:
            return 1 if loads and name == b"CPU" else None

        self.ggml_backend_load_all_from_path = load_all
        self.ggml_backend_reg_by_name = by_name


def test_the_best_variant_of_several_is_loaded(tmp_path: Path, library: Path) -> None:
    ggml = Ggml(loads=True)
    load_cpu_backend(types.SimpleNamespace(_lib=ggml))
    assert ggml.folders == []  # there is one backend, and it is linked in
    (library / "libggml-cpu-haswell.so").touch()
    load_cpu_backend(types.SimpleNamespace(_lib=ggml))
    assert ggml.folders == [bytes(library)]


def test_no_variant_that_loads_is_an_error(library: Path) -> None:
    (library / "libggml-cpu-haswell.so").touch()
    with pytest.raises(LibraryMissing, match="CPU variants in"):
        load_cpu_backend(types.SimpleNamespace(_lib=Ggml(loads=False)))
