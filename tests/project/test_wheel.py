"""What a user installs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NAMESPACE = "llm_serving_engine"
SOURCES = ("backends", "clients", "proto", "scheduler", "server", "src")
FILES = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built in a copy: building leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "node_modules")
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--no-index", "--wheel-dir", str(folder), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def python_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}


def test_one_name_is_installed(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {NAMESPACE}


def test_every_module_is_in_it(wheel: zipfile.ZipFile) -> None:
    there = set(wheel.namelist())
    for package in ("backends", "clients", "scheduler", "server"):
        wanted = {f"{NAMESPACE}/{package}/{name}" for name in python_files(ROOT / package)}
        assert wanted - there == set(), package


def test_it_holds_types_and_descriptors(wheel: zipfile.ZipFile) -> None:
    there = set(wheel.namelist())
    assert f"{NAMESPACE}/py.typed" in there
    wanted = {
        f"{NAMESPACE}/v1/{path.name}"
        for path in (ROOT / "proto" / NAMESPACE / "v1").iterdir()
        if path.suffix in (".py", ".pyi", ".proto", ".binpb")
    }
    assert wanted - there == set()


def test_it_holds_files_and_no_links(wheel: zipfile.ZipFile) -> None:
    links = [
        info.filename
        for info in wheel.infolist()
        if (info.external_attr >> 16) & 0o170000 == 0o120000
    ]
    assert links == []


def test_it_holds_no_tests(wheel: zipfile.ZipFile) -> None:
    assert [name for name in wheel.namelist() if Path(name).name.startswith("test_")] == []


def test_it_names_both_commands(wheel: zipfile.ZipFile) -> None:
    entry_points = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    text = wheel.read(entry_points).decode()
    for command in ("llm-serving-engine", "lse"):
        assert f"{command} = llm_serving_engine.__main__:main" in text


def test_it_holds_the_console(wheel: zipfile.ZipFile) -> None:
    static = ROOT / "server" / "console" / "static"
    files = {path.relative_to(ROOT).as_posix() for path in static.rglob("*") if path.is_file()}
    assert f"{static.relative_to(ROOT).as_posix()}/index.html" in files
    wanted = {f"{NAMESPACE}/{name}" for name in files}
    assert wanted - set(wheel.namelist()) == set()
