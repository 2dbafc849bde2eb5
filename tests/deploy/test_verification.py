"""The set-up's self-check, and the builds with fewer features where it fails."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from llm_serving_engine.backends.build_record import BuildRecord, Check, Outcome
from llm_serving_engine.backends.self_check.faults import VARIABLE

if TYPE_CHECKING:
    from bootstrap.features import Features
    from bootstrap.llama_cpp import LlamaCppWheel

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
AVX2 = ["sse4_2", "avx", "f16c", "fma", "bmi2", "avx2"]
FLAGS = [*AVX2, "avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw", "amx_tile"]
RIGHT = Check(Outcome.OK, 0.01)
CRASH = Check(Outcome.CRASH, None, "its process was ended by SIGSEGV")


@pytest.fixture(autouse=True)
def scripts_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the set-up's modules importable, as they are for `python deploy/setup.py`."""
    monkeypatch.syspath_prepend(str(DEPLOY))
    for name in ("CMAKE_ARGS", "CXX", VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "bootstrap"]:
        del sys.modules[name]


class Machine:
    """What is done to a machine on which only some builds compute right."""

    def __init__(self, folder: Path, *right: str) -> None:
        from bootstrap.console import Console
        from bootstrap.features import ladder
        from bootstrap.llama_cpp import LlamaCppWheel

        (folder / "deploy").symlink_to(DEPLOY)
        shutil.copy(ROOT / "constraints.txt", folder)
        self.right = right
        self.done: list[str] = []
        self.console = Console()
        self.builds = ladder(FLAGS, "")
        self.wheel: LlamaCppWheel = LlamaCppWheel(folder)
        self.build(self.builds[0], ())

    def prove(self) -> None:
        from bootstrap.verification import Steps, Verification

        steps = Steps(self.build, lambda: self.done.append("install"), self.check)
        Verification(self.wheel, self.builds, steps, self.console).run()

    def build(self, features: Features, attempts: Any) -> None:
        self.done.append(f"build {features.name}")
        fresh = self.wheel.folder / "fresh"
        fresh.mkdir(parents=True)
        (fresh / "llama.whl").write_text(features.name)
        self.wheel.keep(features, attempts)

    def check(self, description: Path) -> dict[str, Any]:
        build = json.loads(description.read_text())
        self.done.append(f"check {build['features']}")
        found = RIGHT if build["features"] in self.right else CRASH
        checks = {
            name: {"outcome": found.outcome.value, "error": None, "detail": found.detail}
            for name in ("Q4_0", "F16")
        }
        return {**BuildRecord("").to_json(), **build, "checks": checks}


def test_all_features_are_kept_where_they_compute_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(tmp_path, "full")
    machine.prove()
    assert machine.done == ["build full", "install", "check full"]
    assert machine.wheel.remembered["checks"]["Q4_0"]["outcome"] == "ok"
    said = capsys.readouterr().err
    assert "self-check: llama.cpp computes right, with all features of this CPU" in said


def test_features_are_left_out_one_after_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(tmp_path, "no-avx512")
    machine.prove()
    assert [step for step in machine.done if step != "install"] == [
        "build full", "check full", "build no-amx", "check no-amx", "build no-avx512",
        "check no-avx512",
    ]  # fmt: skip
    assert machine.done.count("install") == 3
    assert machine.wheel.path is not None
    assert machine.wheel.path.read_text() == "no-avx512"
    said = capsys.readouterr().err
    assert "failed, with all features of this CPU: Q4_0: crash: its process was ended" in said
    assert "compiled again without AMX: prompts take about twice as long" in said
    record = BuildRecord.from_json(machine.wheel.remembered)
    assert record.ok
    assert record.features == "no-avx512"
    assert record.cost
    assert [attempt.features for attempt in record.attempts] == ["full", "no-amx"]
    assert "(and 1 of 1 other types)" in record.attempts[0].failure


def test_a_set_up_again_goes_on_from_what_is_remembered(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "no-amx")
    machine.prove()
    machine.done.clear()
    machine.prove()
    assert machine.done == ["install", "check no-amx"]
    machine.right = ("no-avx512",)  # the machine has got worse
    machine.done.clear()
    machine.prove()
    assert "build full" not in machine.done
    assert machine.wheel.remembered["features"] == "no-avx512"
    failed = [attempt["features"] for attempt in machine.wheel.remembered["attempts"]]
    assert failed == ["full", "no-amx"]


def test_where_nothing_works_the_error_says_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bootstrap.errors import SetupError

    monkeypatch.setattr("bootstrap.verification.compiler_name", lambda: "g++ (A system) 12.2.0")
    monkeypatch.setattr("bootstrap.verification.processor_name", lambda: "A CPU")
    machine = Machine(tmp_path)
    with pytest.raises(SetupError) as raised:
        machine.prove()
    *tried, error = str(raised.value).splitlines()
    assert [line.partition(":")[0] for line in tried] == ["full", "no-amx", "no-avx512", "baseline"]
    assert error.startswith("error: llama.cpp computes wrong results")
    for words in ("CPU: A CPU", "compiler: g++ (A system) 12.2.0", "CC=clang"):
        assert words in error
    machine.done.clear()
    with pytest.raises(SetupError):
        machine.prove()
    assert machine.done == ["install", "check baseline"]


def test_the_ladder_leaves_out_what_it_says() -> None:
    from bootstrap.features import ladder

    full, no_amx, no_avx512, baseline = ladder(FLAGS, "")
    assert (full.options, full.needs) == ((), "cpu")
    assert "-DGGML_NATIVE=OFF" in no_amx.options
    assert {"-DGGML_AVX512=ON", "-DGGML_AVX2=ON", "-DGGML_AVX_VNNI=OFF"} <= set(no_amx.options)
    assert not any("AMX" in option for option in no_amx.options)
    assert {"avx512f", "avx2"} <= set(no_amx.needs)
    assert {"-DGGML_AVX512=OFF", "-DGGML_AVX2=ON"} <= set(no_avx512.options)
    assert "avx512f" not in no_avx512.needs
    assert {"-DGGML_AVX2=OFF", "-DGGML_SSE42=OFF"} <= set(baseline.options)
    assert baseline.needs == ()
    assert all(build.cost for build in (no_amx, no_avx512, baseline))


def test_the_ladder_has_no_step_that_leaves_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from bootstrap.features import ladder

    def names(flags: str, cmake_args: str = "") -> list[str]:
        return [build.name for build in ladder(flags.split(), cmake_args)]

    assert names("avx2 fma") == ["full", "baseline"]
    assert names("avx2 avx512f") == ["full", "no-avx512", "baseline"]
    assert names("avx2 avx512f", "-DGGML_NATIVE=OFF") == ["portable", "baseline"]
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert names("asimd i8mm") == ["full", "baseline"]


def test_a_portable_build_with_variants_needs_nothing() -> None:
    from bootstrap.features import ladder

    variants = "-DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON"
    assert ladder(FLAGS, variants)[0].needs == ()
    assert ladder(FLAGS, "-DGGML_NATIVE=OFF")[0].needs == "library"


def test_a_changed_compiler_has_it_checked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bootstrap.console import Console
    from bootstrap.environment import Environment

    for name in ("deploy", "constraints.txt", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    environment = Environment(tmp_path, Console())
    environment._stamp.write({"server"}, "g++ 12.2.0")
    for compiler, nothing_to_do in (("g++ 12.2.0", True), ("g++ 14.1.0", False), ("", True)):
        monkeypatch.setattr("bootstrap.environment.compiler_name", lambda name=compiler: name)
        assert environment.has({"server"}) is nothing_to_do


@pytest.mark.parametrize(("attempts", "kept"), [((), True), (({"features": "full"},), False)])
def test_another_compiler_may_do_better_than_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempts: Any, kept: bool
) -> None:
    from bootstrap.console import Console
    from bootstrap.environment import Environment
    from bootstrap.errors import SetupError

    machine = Machine(tmp_path)
    (tmp_path / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
    machine.wheel.remember({"features": "no-amx", "compiler": "g++ 12", "attempts": attempts})
    monkeypatch.setattr("bootstrap.environment.compiler_name", lambda: "g++ 14")
    monkeypatch.setattr("bootstrap.environment.check_toolchain", lambda: None)
    (tmp_path / ".venv").mkdir()  # of something else: the set-up ends when it comes to it
    with pytest.raises(SetupError, match="is not an environment of Python"):
        Environment(tmp_path, Console()).make(("server",))
    assert (machine.wheel.path is not None) is kept


def test_the_compiler_is_named_by_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bootstrap.toolchain import compiler_name

    wrapper = tmp_path / "ccache"
    wrapper.write_text('#!/bin/sh\n[ "$1" = c++ ] && echo "c++ 14.1.0" && echo "more"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    monkeypatch.setenv("CXX", "ccache c++")
    assert compiler_name() == "c++ 14.1.0"
    monkeypatch.setenv("CXX", "missing")
    assert compiler_name() == ""


def test_a_self_check_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    from bootstrap.errors import SetupError
    from bootstrap.verification import run_self_check

    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "no such module" >&2\nexit 1\n')
    python.chmod(0o755)
    with pytest.raises(SetupError, match="no such module\nerror: the self-check"):
        run_self_check(python, tmp_path / "build.json")


def test_the_self_check_is_of_the_installed_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bootstrap.verification import run_self_check

    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", "elsewhere")
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "{\\"path\\": \\"$LLAMA_CPP_LIB_PATH\\"}"\n')
    python.chmod(0o755)
    assert run_self_check(python, tmp_path / "build.json") == {"path": ""}


def test_builds_that_tests_make_fail_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from bootstrap.llama_cpp import LlamaCppWheel

    key = LlamaCppWheel(ROOT).key
    monkeypatch.setenv(VARIABLE, "full=wrong")
    assert LlamaCppWheel(ROOT).key != key


def test_the_set_up_and_the_package_name_the_same_variable() -> None:
    from bootstrap.llama_cpp import FAULTS

    assert FAULTS == VARIABLE
