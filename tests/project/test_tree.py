"""The style of the tree: small files, small functions, nothing of one machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
FILE_BYTES_MAX = 500_000
GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$|\.pb\.go$")

# An index or an archive that packages are fetched from, or the place of a checkout or a home.
FORBIDDEN = {
    "a registry": re.compile(
        r'"resolved": *"https?:'
        r"|(?:registry|index-url|extra-index-url) *= *[\"']?https?:"
        r"|https?://[^\s\"')]+\.(?:whl|tgz|tar\.gz)\b"
        r"|https?://[^\s\"')]+/simple\b"
    ),
    "a path of one machine": re.compile(r"(?<![\w.])/(?:root|home/\w+|Users/\w+|work|mnt)/\w"),
}


def tracked() -> list[Path]:
    """The files of the repository; where there is none, nothing can be said."""
    command = ["git", "ls-files", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    paths = (ROOT / name for name in done.stdout.split("\0") if name)
    return [path for path in paths if path.exists() or path.is_symlink()]


def texts() -> list[tuple[Path, str]]:
    files = (path for path in tracked() if not path.is_symlink() and b"\0" not in path.read_bytes())
    return [(path.relative_to(ROOT), path.read_text()) for path in files]


def own_python() -> list[tuple[Path, str]]:
    return [
        (path, text)
        for path, text in texts()
        if path.suffix == ".py" and not GENERATED.search(path.name)
    ]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    found = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if FORBIDDEN[what].search(line)
    ]
    assert found == []


def test_nothing_large_is_kept() -> None:
    sizes = {path.relative_to(ROOT): path.lstat().st_size for path in tracked()}
    assert {path: size for path, size in sizes.items() if size > FILE_BYTES_MAX} == {}


def test_no_packages_are_kept() -> None:
    assert [path.name for path in tracked() if path.suffix == ".whl"] == []


def test_files_are_short() -> None:
    lengths = {path: len(text.splitlines()) for path, text in own_python()}
    assert {path: n for path, n in lengths.items() if n > FILE_LINES_MAX} == {}


def test_functions_are_short() -> None:
    found = {
        f"{path}:{node.name}": lines
        for path, text in own_python()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert found == {}


def test_links_lead_somewhere() -> None:
    assert [path for path in tracked() if path.is_symlink() and not path.exists()] == []


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path, _ in texts() if path.match("test_*.py")]
    assert sorted(names) == sorted(set(names))
