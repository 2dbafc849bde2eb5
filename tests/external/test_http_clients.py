"""Clients of the HTTP API that people use, told nothing but the address."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_process import serve_process

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / ".tools"
PROGRAM_SECONDS_MAX = 90
PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where the built-in model is served, which has aliases for what clients call it."""
    aliases = {"LLM_SERVING_ENGINE_MODEL__ALIASES": '["any"]'}
    with serve_process("--model", "builtin", env={**os.environ, **aliases}, quiet=True) as server:
        yield f"{server.http}/v1"


def run(command: list[str], address: str) -> dict[str, Any]:
    """What a program prints."""
    # Whatever proxy the machine has, a server on loopback is not behind it.
    environment = {**os.environ, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [*command, address],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=PROGRAM_SECONDS_MAX,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert answer["whole"]
    assert answer["streamed"] == answer["whole"]
    assert 1 <= answer["tokens"] <= 8
    return answer


def node_program(name: str) -> list[str]:
    """The command of a program, beside the packages that it imports."""
    folder = TOOLS / name
    if not (folder / "node_modules" / ".package-lock.json").exists():
        pytest.skip(f"NOT TESTED: {name} for Node is not here; `make test-external` gets it")
    return ["node", shutil.copy(str(PROGRAMS / f"{name}.mjs"), str(folder))]


def python_program(name: str) -> list[str]:
    folder = TOOLS / name
    if not (folder / "installed").exists():
        pytest.skip(f"NOT TESTED: {name} is not here; `make test-external` gets it")
    return [str(folder / "bin" / "python"), str(PROGRAMS / f"{name}.py")]


def test_openai_for_node(address: str) -> None:
    answer = run(node_program("openai"), address)
    assert answer["response"]
    assert answer["models"] == 1


def test_vercels_ai_sdk(address: str) -> None:
    run(node_program("ai-sdk"), address)


@pytest.mark.parametrize("name", ["langchain", "llama-index"])
def test_python_frameworks(name: str, address: str) -> None:
    run(python_program(name), address)


def test_litellm(address: str) -> None:
    assert run(python_program("litellm"), address)["error"] == "ContextWindowExceededError"
