"""grpcurl against a real server: by reflection, and by the descriptor set."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DESCRIPTORS = ROOT / "proto" / "llm_serving_engine" / "v1" / "descriptors.binpb"
SERVICE = "llm_serving_engine.v1.InferenceService"
REQUEST = json.dumps({"prompt": "Once upon a time", "maxTokens": 8, "sampling": {"temperature": 0}})


def run(grpcurl: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(grpcurl), "-plaintext", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def answers(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    """The JSON messages that were printed, one after the other."""
    assert done.returncode == 0, done.stderr
    decoder, text, messages = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        message, end = decoder.raw_decode(text)
        messages.append(message)
        text = text[end:].strip()
    return messages


def test_reflection_lists_the_services(grpcurl: Path, server_address: str) -> None:
    done = run(grpcurl, server_address, "list")
    assert done.returncode == 0, done.stderr
    assert {SERVICE, "grpc.health.v1.Health"} <= set(done.stdout.split())


@pytest.mark.parametrize("described_by", [[], ["-protoset", str(DESCRIPTORS)]])
def test_a_stream_is_the_answer_in_parts(
    grpcurl: Path, server_address: str, described_by: list[str]
) -> None:
    arguments = [*described_by, "-d", REQUEST, server_address]
    [whole] = answers(run(grpcurl, *arguments, f"{SERVICE}/Generate"))
    events = answers(run(grpcurl, *arguments, f"{SERVICE}/Stream"))
    assert [next(iter(event)) for event in (events[0], events[-1])] == ["started", "finished"]
    deltas = [event["delta"] for event in events if "delta" in event]
    assert "".join(delta.get("text", "") for delta in deltas) == whole["text"]  # type: ignore[attr-defined]


def test_an_error_comes_with_its_details(grpcurl: Path, server_address: str) -> None:
    done = run(grpcurl, "-d", '{"prompt": ""}', server_address, f"{SERVICE}/Generate")
    assert done.returncode != 0
    assert "InvalidArgument" in done.stderr
    assert "google.rpc.BadRequest" in done.stderr


def test_health_is_asked_as_it_is_everywhere(grpcurl: Path, server_address: str) -> None:
    [answer] = answers(run(grpcurl, server_address, "grpc.health.v1.Health/Check"))
    assert answer == {"status": "SERVING"}


def test_the_line_that_the_server_prints_works(grpcurl: Path, server_hint: str) -> None:
    [program, *arguments] = shlex.split(server_hint)
    assert program == "grpcurl"
    done = subprocess.run([str(grpcurl), *arguments], capture_output=True, text=True, check=False)
    assert "finished" in answers(done)[-1]
