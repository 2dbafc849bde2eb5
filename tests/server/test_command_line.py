"""What a command that is not understood says."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("serve --prot 1", "No such option: --prot (Possible options: --host, --port)"),
        ("bench --workload chur", "Invalid value for '--workload': 'chur' is not one of 'steady'"),
        ("nothing", "No such command 'nothing'"),
        ("generate x --max-tokens 0", "Invalid value for '--max-tokens': must be greater than"),
    ],
)
def test_one_line_says_what_is_wrong_and_where_help_is(arguments: str, error: str) -> None:
    done = run(*arguments.split())
    command = arguments.split()[0]
    program = "python -m llm_serving_engine"
    asked = program if command == "nothing" else f"{program} {command}"
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {error}")
    assert line.endswith(f"; see {asked} --help")


def test_the_version() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout == f"llm-serving-engine {metadata.version('llm-serving-engine')}\n"


def test_without_a_command_there_is_help() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (2, "")
    assert "Usage: python -m llm_serving_engine" in done.stdout


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llm_serving_engine", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)
