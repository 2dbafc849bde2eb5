"""Real tools, and a real server: what is not there is skipped, and says why."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_process import ServeProcess, serve_process

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / ".tools"


@pytest.fixture(scope="session")
def server() -> Iterator[ServeProcess]:
    """A real server on the scripted backend, in a process of its own."""
    with serve_process("--backend", "scripted", quiet=True) as server:
        yield server
        server.signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0


@pytest.fixture(scope="session")
def server_hint(server: ServeProcess) -> str:
    """The grpcurl line that it prints."""
    return server.wait_for("grpcurl ")


@pytest.fixture(scope="session")
def server_address(server: ServeProcess) -> str:
    """Where it listens."""
    return server.address


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
