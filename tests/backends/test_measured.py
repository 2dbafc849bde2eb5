"""Choices that are remembered from load to load."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from llm_serving_engine.backends import machine
from llm_serving_engine.backends import measured as measured_module
from llm_serving_engine.backends.measured import Circumstances, Measured, MeasuredStore

HERE = Circumstances(model="m", build="b", machine="x")
CHOICE = Measured(
    subject="kernels",
    given={"threads": 2},
    values={"kernels": "repack"},
    figures={"repack_seconds": 0.25, "plain_seconds": 1},
    reason="4.0 times as fast as plain",
    date="2026-11-26",
)


@pytest.fixture
def store(tmp_path: Path) -> MeasuredStore:
    return MeasuredStore(HERE, tmp_path / "deep" / "measured")


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "deep" / "measured").iterdir())


def test_what_is_remembered_is_recalled(store: MeasuredStore, tmp_path: Path) -> None:
    assert store.recall("kernels", {"threads": 2}) is None
    assert store.remember(CHOICE)
    assert store.recall("kernels", {"threads": 2}) == CHOICE
    assert len(files(tmp_path)) == 1
    better = replace(CHOICE, values={"kernels": "plain"})
    assert store.remember(better)
    assert store.recall("kernels", {"threads": 2}) == better
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize(
    "other",
    [replace(HERE, model="n"), replace(HERE, build="c"), replace(HERE, machine="y")],
    ids=["model", "build", "machine"],
)
def test_it_holds_for_nothing_else(
    store: MeasuredStore, other: Circumstances, tmp_path: Path
) -> None:
    store.remember(CHOICE)
    elsewhere = MeasuredStore(other, tmp_path / "deep" / "measured")
    assert elsewhere.recall("kernels", {"threads": 2}) is None
    assert store.recall("kernels", {"threads": 1}) is None
    assert store.recall("chunk", {"threads": 2}) is None


def altered(**changes: object) -> str:
    content = {"format": 1, "measured": {"subject": "kernels", "given": {"threads": 2}}}
    content["measured"] |= {"values": {"kernels": "repack"}} | changes  # type: ignore[operator]
    return json.dumps(content)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"format": 2}',
        "\xff",
        "[" * 100_000,
        altered(values={"kernels": ["repack"]}),
        altered(values=7),
        altered(figures={"seconds": "many"}),
        *(altered(figures={"seconds": x}) for x in (1e308, 10**400, -1, math.nan, math.inf)),
        altered(reason=3),
        altered(unknown=1),
        altered(subject="chunk"),
        altered(given={"threads": 4}),
    ],
)
def test_a_file_that_makes_no_sense_is_ignored(
    store: MeasuredStore, tmp_path: Path, text: str
) -> None:
    store.remember(CHOICE)
    [path] = files(tmp_path)
    path.write_text(text, encoding="latin-1")
    assert store.recall("kernels", {"threads": 2}) is None
    assert store.remember(CHOICE)
    assert store.recall("kernels", {"threads": 2}) == CHOICE


def test_altered_makes_sense_when_nothing_is(store: MeasuredStore, tmp_path: Path) -> None:
    store.remember(CHOICE)
    files(tmp_path)[0].write_text(altered())
    recalled = store.recall("kernels", {"threads": 2})
    assert recalled is not None
    assert recalled.values == {"kernels": "repack"}


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = MeasuredStore(HERE, tmp_path / "file" / "measured")
    assert not store.remember(CHOICE)
    assert store.recall("kernels", {"threads": 2}) is None


def test_a_write_that_fails_leaves_the_old_file(
    store: MeasuredStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.remember(CHOICE)

    def fail(path: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    assert not store.remember(replace(CHOICE, reason="another"))
    assert store.recall("kernels", {"threads": 2}) == CHOICE
    assert len(files(tmp_path)) == 1


def test_no_more_files_than_the_limit(
    store: MeasuredStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_module, "FILES_MAX", 3)
    for threads in range(1, 6):
        store.remember(replace(CHOICE, given={"threads": threads}))
        for age, path in enumerate(sorted(files(tmp_path), key=lambda path: path.stat().st_mtime)):
            os.utime(path, (age, age))
    recalled = [store.recall("kernels", {"threads": n}) is not None for n in range(1, 6)]
    assert recalled == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"XDG_CACHE_HOME": "/x"}, "/x"),
        ({"XDG_CACHE_HOME": "/x", "CACHE_DIRECTORY": "/y"}, "/y"),
        ({"CACHE_DIRECTORY": "/y:/z"}, "/y"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache"),
        ({"HOME": "/h"}, "/h/.cache"),
    ],
)
def test_where_the_files_are(
    variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_module.sys, "platform", "linux")  # type: ignore[attr-defined]
    for name in ("XDG_CACHE_HOME", "CACHE_DIRECTORY", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert MeasuredStore(HERE)._folder == Path(folder, "llm-serving-engine", "measured")


def test_a_user_without_a_home_measures_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "CACHE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)

    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    store = MeasuredStore(HERE)
    assert not store.remember(CHOICE)
    assert store.recall("kernels", {"threads": 2}) is None


def test_a_file_is_known_by_what_it_holds(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    one.write_bytes(b"a" * 200_000)
    two.write_bytes(b"a" * 200_000)
    three.write_bytes(b"a" * 199_999 + b"b")
    assert Circumstances.of(one) == Circumstances.of(two)
    assert Circumstances.of(one).model != Circumstances.of(three).model
    three.write_bytes(b"a" * 199_999)
    assert Circumstances.of(one).model != Circumstances.of(three).model


def test_another_compilation_is_another_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_module, "library_folder", lambda: tmp_path)
    library, model = tmp_path / "libggml.so", tmp_path / "model"
    library.write_bytes(b"one")
    model.write_bytes(b"model")
    before = Circumstances.of(model)
    library.write_bytes(b"another")
    assert Circumstances.of(model).build != before.build
    monkeypatch.setattr(measured_module, "library_folder", lambda: None)
    assert Circumstances.of(model) == replace(before, build="")


def test_fewer_cores_are_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").write_bytes(b"model")
    before = Circumstances.of(tmp_path / "model")
    monkeypatch.setattr(machine, "compute_threads", lambda: 99)
    assert Circumstances.of(tmp_path / "model").machine != before.machine
