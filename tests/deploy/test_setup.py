"""The set-up: what it says when it cannot, and when it has nothing to do."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"


@pytest.fixture(autouse=True)
def scripts_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the set-up's modules importable, as they are for `python deploy/setup.py`."""
    monkeypatch.syspath_prepend(str(DEPLOY))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "bootstrap"]:
        del sys.modules[name]


def command(folder: Path, name: str, script: str) -> None:
    """Put a shell script into a folder of commands."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run_as_python_3_8(path: str) -> subprocess.CompletedProcess[str]:
    """Run `setup.py serve` under this Python, which says that it is an old one."""
    script = (
        "import runpy, sys; sys.version_info = (3, 8, 1, 'final', 0); "
        "sys.argv = ['setup.py', 'serve']; "
        f"runpy.run_path({str(DEPLOY / 'setup.py')!r}, run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={"PATH": path},
        check=False,
    )


def test_the_first_file_is_read_by_any_python_3() -> None:
    tree = ast.parse((DEPLOY / "setup.py").read_text(), feature_version=(3, 6))
    imported = {
        alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names
    }
    assert imported == {"os", "shutil", "subprocess", "sys"}
    assert not any(isinstance(node, ast.ImportFrom) for node in tree.body)


def test_a_python_that_is_too_old_is_one_line(tmp_path: Path) -> None:
    done = run_as_python_3_8(str(tmp_path))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert re.search(
        r"error: Python 3\.10 or newer is needed.*3\.8\.1.*apt.*dnf.*brew", done.stderr
    )


def test_a_python_that_is_too_old_hands_over_to_a_newer_one(tmp_path: Path) -> None:
    command(tmp_path, "python3.13", "exit 1")  # a shim of a version manager, say: there, but no use
    command(tmp_path, "python3.12", '[ "$1" = -c ] || echo "handed over: $*"')
    done = run_as_python_3_8(f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    assert done.stdout == f"handed over: {DEPLOY / 'setup.py'} serve\n"


def test_what_is_missing_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bootstrap.errors import SetupError
    from bootstrap.toolchain import check_toolchain

    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(SetupError) as raised:
        check_toolchain()
    lines = str(raised.value).splitlines()
    for line, thing in zip(lines, ("C compiler", "C++ compiler", "CMake"), strict=True):
        assert thing in line
        assert "apt install" in line
        assert "dnf install" in line
        assert "macOS: " in line


def test_a_cmake_that_is_too_old_is_told_from_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bootstrap.errors import SetupError
    from bootstrap.toolchain import check_toolchain

    for name in ("cc", "c++"):
        command(tmp_path, name, "echo compiler 1.0")
    command(tmp_path, "cmake", "echo cmake version 3.16.3")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        SetupError, match=r"^error: CMake 3\.21 or newer is needed, this is 3\.16; "
    ):
        check_toolchain()
    command(tmp_path, "cmake", "echo cmake version 4.0.1")
    check_toolchain()


def test_a_compiler_that_does_not_work_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bootstrap.errors import SetupError
    from bootstrap.toolchain import check_toolchain

    command(tmp_path, "cc", "exit 1")
    command(tmp_path, "c++", "echo compiler 1.0")
    command(tmp_path, "cmake", "echo cmake version 3.25.1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match=r"^error: a C compiler is needed"):
        check_toolchain()


def test_the_stamp_knows_what_is_installed(tmp_path: Path) -> None:
    from bootstrap.stamp import Stamp

    stamp = Stamp(tmp_path / "setup.json", "inputs")
    assert stamp.extras() is None
    stamp.write({"server"}, "g++")
    assert stamp.extras() == frozenset({"server"})
    assert Stamp(tmp_path / "setup.json", "other inputs").extras() is None
    stamp.remove()
    stamp.remove()
    assert stamp.extras() is None


def test_a_stamp_that_was_cut_short_is_none(tmp_path: Path) -> None:
    from bootstrap.stamp import Stamp

    path = tmp_path / "setup.json"
    path.write_text('{"inputs": "inp')
    assert Stamp(path, "inputs").extras() is None


def test_a_failed_job_shows_the_end_of_its_output(tmp_path: Path) -> None:
    from bootstrap.console import Console
    from bootstrap.errors import SetupError
    from bootstrap.jobs import TAIL_LINES, Job, run_lanes

    script = "import sys; print('\\n'.join(map(str, range(50)))); sys.exit(3)"
    log = tmp_path / "logs" / "job.log"
    job = Job("a job", [sys.executable, "-c", script], log)
    with pytest.raises(SetupError) as raised:
        run_lanes([[job]], Console())
    lines = str(raised.value).splitlines()
    assert lines[:-1] == [str(number) for number in range(50 - TAIL_LINES, 50)]
    assert lines[-1] == f"error: a job: failed; its output is in {log}"


def test_a_failed_lane_stops_the_others(tmp_path: Path) -> None:
    from bootstrap.console import Console
    from bootstrap.errors import SetupError
    from bootstrap.jobs import Job, run_lanes

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    never = Job("one that never ends", ["cat", str(fifo)], tmp_path / "never.log")
    fails = Job("one that fails", ["false"], tmp_path / "fails.log")
    with pytest.raises(SetupError, match="one that fails"):
        run_lanes([[never], [fails]], Console())


def test_the_wheel_is_kept_apart_by_what_it_is_compiled_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bootstrap.llama_cpp import LlamaCppWheel

    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    plain = LlamaCppWheel(ROOT).key
    assert LlamaCppWheel(ROOT).key == plain
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_NATIVE=OFF")
    assert LlamaCppWheel(ROOT).key != plain


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    from bootstrap.console import Console
    from bootstrap.environment import Environment
    from bootstrap.errors import SetupError
    from bootstrap.llama_cpp import LlamaCppWheel

    (tmp_path / "deploy").symlink_to(DEPLOY)
    for name in ("constraints.txt", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    wheel = LlamaCppWheel(tmp_path).folder / "llama.whl"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    precious = tmp_path / ".venv" / "notes.txt"
    precious.parent.mkdir()
    precious.touch()
    with pytest.raises(SetupError, match="is not an environment of Python; move it away"):
        Environment(tmp_path, Console()).make(("server",))
    assert precious.exists()


@pytest.mark.parametrize(
    ("cores", "gibibytes", "compilers"), [(2, 24, 2), (64, 8, 8), (4, 4, 4), (4, 0.5, 1)]
)
def test_no_more_compilers_than_cores_and_memory_allow(
    cores: int, gibibytes: float, compilers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bootstrap.llama_cpp import jobs

    sizes = {"SC_PHYS_PAGES": int(gibibytes * 2**30) // 4096, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert jobs() == compilers
