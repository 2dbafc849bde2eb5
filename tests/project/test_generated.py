"""What is generated is what the generator makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("script", "remedy"),
    [
        ("proto.py", "make proto"),
        ("diagrams.py", "make diagrams"),
        ("settings.py", "make diagrams"),
    ],
)
def test_it_is_fresh(script: str, remedy: str) -> None:
    command = [sys.executable, str(ROOT / "deploy" / script), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run: {remedy}\n{done.stderr}"


def test_the_proto_files_pass_buf_lint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It reads settings there, and fails where it must not look.
    monkeypatch.setenv("HOME", str(tmp_path))
    command = [str(Path(sys.executable).parent / "buf"), "lint", str(ROOT / "proto")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_setting_without_a_default_says_what_it_is_then() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.endswith(" |") and "| not set |" in line]
    assert rows
    assert [row for row in rows if "Not set: " not in row] == []
