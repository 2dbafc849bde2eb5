"""A process that is started with closed standard streams has the null device in their place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
from llm_serving_engine.server.commands.standard_streams import open_standard_streams
open_standard_streams()
streams = (sys.stdin, sys.stdout, sys.stderr)
devices = {os.stat(number).st_rdev == os.stat(os.devnull).st_rdev for number in range(3)}
kept = {os.get_inheritable(number) for number in range(3)}
with open(sys.argv[1], "w") as file:
    print([stream.fileno() for stream in streams], devices, kept, file=file)
"""


@pytest.mark.parametrize(
    ("closed", "expected"),
    [("<&- >&- 2>&-", "[0, 1, 2] {True} {True}"), ("</dev/null >&- 2>/dev/null", "[0, 1, 2]")],
)
def test_closed_streams(closed: str, expected: str, tmp_path: Path) -> None:
    told = tmp_path / "told"
    shell = f'exec "$@" {closed}'
    subprocess.run(["sh", "-c", shell, "sh", sys.executable, "-c", PROGRAM, told], check=True)
    assert told.read_text().startswith(expected)
