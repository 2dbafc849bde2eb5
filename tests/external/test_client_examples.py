"""The Go and Node clients, by the lines that their pages show, against a real server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import grpc
import pytest

from llm_serving_engine.v1 import generation_pb2, inference_pb2, inference_pb2_grpc

CLIENTS = Path(__file__).resolve().parent.parent.parent / "clients"
DEFAULT_ADDRESS = "127.0.0.1:50051"
PROGRAMS = [("go", "go run"), ("node", "node stream.js")]


def documented(folder: Path, program: str) -> str:
    """The line of a page that runs `program` and names an address."""
    page = (folder / "README.md").read_text()
    lines = re.findall(rf"^{program} .*{DEFAULT_ADDRESS}.*$", page, re.MULTILINE)
    assert len(lines) == 1
    return str(lines[0])


def require(folder: str, program: str) -> Path:
    """The client's folder; skips where what runs it is missing."""
    command = program.split()[0]
    if not shutil.which(command):
        pytest.skip(f"{command} is not here")
    if folder == "node" and not (CLIENTS / "node" / "node_modules").exists():
        pytest.skip("what `npm install` fetches is not here")
    return CLIENTS / folder


def printed(address: str) -> str:
    """What the clients should print: their request, answered at once."""
    request = inference_pb2.GenerateRequest(prompt="Once upon a time", max_tokens=64)
    request.sampling.temperature = 0
    with grpc.insecure_channel(address) as channel:
        answer = inference_pb2_grpc.InferenceServiceStub(channel).Generate(request)
    reason = generation_pb2.FinishReason.Name(answer.finish_reason)
    return f"{answer.text}\n\n{reason}, {answer.usage.completion_tokens} tokens\n"


def run(line: str, folder: Path, address: str) -> subprocess.CompletedProcess[str]:
    """Run a documented line against another address."""
    return subprocess.run(
        line.replace(DEFAULT_ADDRESS, address),
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        # Whatever proxy the machine has, a server on loopback is not behind it.
        env={**os.environ, "no_proxy": "127.0.0.1"},
        check=False,
    )


@pytest.mark.parametrize(("name", "program"), PROGRAMS)
def test_it_prints_the_answer(name: str, program: str, server_address: str) -> None:
    folder = require(name, program)
    done = run(documented(folder, program), folder, server_address)
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed(server_address)


@pytest.mark.parametrize(("name", "program"), PROGRAMS)
def test_it_fails_with_the_status(name: str, program: str) -> None:
    folder = require(name, program)
    # Nobody can listen on port 0.
    done = run(documented(folder, program), folder, "127.0.0.1:0")
    assert done.returncode == 1
    assert re.search(r"^UNAVAILABLE: |^Unavailable: ", done.stderr, re.MULTILINE)
