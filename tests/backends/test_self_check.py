"""The self-check: right kernels pass, and every kind of fault is found and told from the others."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llm_serving_engine.backends.build_record import (
    Outcome,
    library_folder,
    read_build_record,
)
from llm_serving_engine.backends.self_check.check import check_types
from llm_serving_engine.backends.self_check.comparison import compare, distances
from llm_serving_engine.backends.self_check.computation import Computation, ComputationError
from llm_serving_engine.backends.self_check.faults import VARIABLE, Fault, fault_for, spoil
from llm_serving_engine.backends.self_check.tiny_llama import TinyLlama
from llm_serving_engine.backends.self_check.weights import (
    CHECKED_TYPES,
    WEIGHT_TYPES,
    decode,
    encode,
)

TILE_ROWS, TILE_COLUMNS = 16, 64  # AMX's


@pytest.fixture
def linked_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the installed libraries, where a record may be written."""
    folder = library_folder()
    assert folder is not None
    linked = tmp_path / "lib"
    linked.mkdir()
    for path in folder.glob("lib*"):
        (linked / path.name).symlink_to(path)
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(linked))
    return linked


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    module = "llm_serving_engine.backends.self_check"
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", CHECKED_TYPES)
def test_the_installed_library_computes_right(name: str, tmp_path: Path) -> None:
    model = TinyLlama(WEIGHT_TYPES[name])
    model.write(tmp_path / "model.gguf")
    check = compare(name, model, tmp_path / "model.gguf")
    assert check.outcome is Outcome.OK, check.detail
    assert check.error is not None
    assert 0 < check.error < WEIGHT_TYPES[name].tolerance


@pytest.mark.parametrize("name", CHECKED_TYPES)
def test_one_wrong_block_is_found(name: str, tmp_path: Path) -> None:
    model = TinyLlama(WEIGHT_TYPES[name])
    model.write(tmp_path / "model.gguf")
    spoil(tmp_path / "model.gguf", model.matrices["output.weight"])
    assert compare(name, model, tmp_path / "model.gguf").outcome is Outcome.WRONG


@pytest.mark.parametrize("matrix", ["output.weight", "blk.0.ffn_down.weight"])
@pytest.mark.parametrize("name", CHECKED_TYPES)
def test_one_wrong_tile_is_found(name: str, matrix: str, tmp_path: Path) -> None:
    model, faulty = TinyLlama(WEIGHT_TYPES[name]), TinyLlama(WEIGHT_TYPES[name])
    values = faulty.matrices[matrix].values.copy()
    values[:TILE_ROWS, :TILE_COLUMNS] = values[TILE_ROWS : 2 * TILE_ROWS, :TILE_COLUMNS]
    faulty.matrices[matrix] = encode(values, WEIGHT_TYPES[name])
    faulty.write(tmp_path / "model.gguf")
    assert compare(name, model, tmp_path / "model.gguf").outcome is Outcome.WRONG


def test_a_model_that_does_not_load_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ComputationError, match="does not load"):
        Computation(tmp_path / "model.gguf", repack=True)
    check = compare("F16", TinyLlama(WEIGHT_TYPES["F16"]), tmp_path / "model.gguf")
    assert (check.outcome, check.error) == (Outcome.WRONG, None)


def test_logits_that_are_not_numbers_are_infinitely_far() -> None:
    reference = np.ones((2, 3))
    logits = np.ones((2, 3), np.float32)
    assert distances(logits, reference) == (0.0, 0.0)
    logits[1, 2] = np.nan
    assert all(np.isnan(distance) for distance in distances(logits, reference))


@pytest.mark.parametrize("name", CHECKED_TYPES)
def test_what_is_stored_stands_for_the_values(name: str) -> None:
    values = np.random.default_rng(0).standard_normal((4, 512), np.float32)
    matrix = encode(values, WEIGHT_TYPES[name])
    assert len(matrix.stored) == values.size // matrix.type.block * matrix.type.bytes
    assert np.abs(matrix.values - values).mean() < 0.1
    assert np.array_equal(decode(matrix.stored, 4, 512, matrix.type).values, matrix.values)


def test_a_crash_is_told_and_the_other_types_are_checked() -> None:
    findings = check_types(("Q4_0", "F16"), fault=Fault.CRASH)
    crashed = findings.checks["Q4_0"]
    assert (crashed.outcome, crashed.error) == (Outcome.CRASH, None)
    assert "SIGSEGV" in crashed.detail
    assert findings.checks["F16"].outcome is Outcome.OK
    assert "REPACK" in findings.library_features


def test_a_hang_is_told_and_ends_the_check() -> None:
    findings = check_types(("Q4_0", "F16"), seconds_max=1, fault=Fault.HANG)
    assert {name: check.outcome for name, check in findings.checks.items()} == {
        "Q4_0": Outcome.HANG,
        "F16": Outcome.HANG,
    }
    assert findings.checks["F16"].detail == "not tried: no answer in 1 s"


def test_a_library_that_does_not_load_fails_every_type(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "libllama.so").write_bytes(b"no library")
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    findings = check_types(("Q4_0", "F16"))
    assert {check.outcome for check in findings.checks.values()} == {Outcome.CRASH}
    assert "llama.cpp does not load" in findings.checks["Q4_0"].detail


def test_faults_are_asked_for_by_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "full=crash,no-amx")
    assert [fault_for(name) for name in ("full", "no-amx", "baseline")] == [
        Fault.CRASH,
        Fault.WRONG,
        None,
    ]


def test_the_command_leaves_a_record_beside_the_libraries(
    linked_libraries: Path, tmp_path: Path
) -> None:
    build = tmp_path / "build.json"
    build.write_text(json.dumps({"features": "full", "compiler": "g++ 12.2.0"}))
    done = command("--json", "--build", str(build))
    record = read_build_record()
    assert done.returncode == 0, done.stdout + done.stderr
    assert record is not None
    assert json.loads(done.stdout) == json.loads(json.dumps(record.to_json()))
    assert record.ok
    assert (record.features, record.compiler) == ("full", "g++ 12.2.0")
    assert set(record.checks) == set(CHECKED_TYPES)
    assert read_build_record(linked_libraries) == record


def test_the_command_fails_where_a_type_does(
    linked_libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "full=wrong")
    build = tmp_path / "build.json"
    build.write_text(json.dumps({"features": "full"}))
    done = command("--build", str(build))
    assert done.returncode == 1
    assert "Q4_0: wrong, off by " in done.stdout
    record = read_build_record(linked_libraries)
    assert record is not None
    assert not record.ok
    assert replace(record, checks={}).checked is False
