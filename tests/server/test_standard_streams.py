"""Standard streams that are closed, or that cannot be written to, end no process."""

from __future__ import annotations

import os
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


def test_a_reader_that_has_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = (
        "import sys\n"
        "from llm_serving_engine.server.commands.standard_streams import tell\n"
        "tell('one')\ntell('two')\ntell('three', err=True)\nsys.exit(7)"
    )
    with open(writer, "wb") as out:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (7, "three\n")
