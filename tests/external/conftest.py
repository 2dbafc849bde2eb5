"""Real tools, and a real server: what is not there is skipped, and says why."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / ".tools"
GRPCURL_LINE = re.compile(r"grpcurl .*?(127\.0\.0\.1:\d+) .*$")


@pytest.fixture(scope="session")
def server_hint() -> Iterator[str]:
    """The grpcurl line that a real server prints, which runs in a process of its own."""
    command = [sys.executable, "-m", "llm_serving_engine", "serve", "--backend", "scripted"]
    with subprocess.Popen(
        [*command, "--port", "0", "--http-port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        said = []
        for line in process.stdout:
            said.append(line)
            if found := GRPCURL_LINE.search(line):
                break
        else:
            pytest.fail("the server ended:\n" + "".join(said))
        # Whoever does not read a pipe holds up its writer.
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        yield found[0]
        process.terminate()
        assert process.wait(timeout=60) == 0
        drain.join()


@pytest.fixture(scope="session")
def server_address(server_hint: str) -> str:
    """Where a real server listens."""
    found = GRPCURL_LINE.search(server_hint)
    assert found
    return found[1]


@pytest.fixture(scope="session")
def envoy() -> Path:
    """Envoy's command."""
    return tool(TOOLS / "envoy" / "bin" / "envoy")


@pytest.fixture(scope="session")
def grpcurl() -> Path:
    """grpcurl's command."""
    return tool(TOOLS / "bin" / "grpcurl")


def tool(path: Path) -> Path:
    """A tool of ours, else the machine's."""
    if path.exists():
        return path
    if found := shutil.which(path.name):
        return Path(found)
    pytest.skip(f"{path.name} is not here; `make test-external` gets it where it can be had")
