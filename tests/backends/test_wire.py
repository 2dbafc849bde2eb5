"""Messages between a host and its worker, however the socket cuts them."""

from __future__ import annotations

import itertools
import pickle
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_serving_engine.backends.backend import BackendConfig, LoadReport
from llm_serving_engine.backends.process import wire
from llm_serving_engine.backends.process.wire import (
    BlockingChannel,
    BrokenMessage,
    FrameReader,
    Load,
    Loaded,
    LoadFailed,
    Message,
    Progress,
    Recall,
    encode,
)
from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.scheduler.step import (
    Capabilities,
    Copy,
    Logprobs,
    Open,
    Output,
    Run,
    RunResult,
    Shape,
    Step,
    StepResult,
)

MESSAGES: list[Message] = [
    Load("llama.cpp", "a/model.gguf", BackendConfig(sequences=3)),
    Progress(0.5),
    Loaded(LoadReport(Capabilities(2, 64), {"threads": "2"}, {"weights": 10})),
    LoadFailed("no such file"),
    Step(
        7,
        (Open(3, Sampling(logit_bias={3: 1.0}), frozenset({2}), 2, (1, 2), (3,)), Copy(0, 1, 5)),
        (Run(3, 1, 5, (6, 7), output=Output.SAMPLE | Output.LOGPROBS),),
        level=2,
    ),
    StepResult(
        7,
        runs=(RunResult(3, 2, (4,), (Logprobs(-0.5, ((3, -0.5),)),)), RunResult(4, 0, error="x")),
        failed=(1,),
        seconds=0.25,
        shape=Shape(1, 2, 3, 0.5),
    ),
    Recall(8),
]
STREAM = b"".join(map(encode, MESSAGES))


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, BlockingChannel]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, BlockingChannel(theirs)


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_frames_cut_anywhere(cuts: list[int]) -> None:
    reader = FrameReader()
    bounds = [0, *sorted(cuts), len(STREAM)]
    received = []
    for start, stop in itertools.pairwise(bounds):
        received += reader.feed(STREAM[start:stop])
    assert received == MESSAGES
    assert [type(message) for message in received] == [type(message) for message in MESSAGES]


def test_a_message_comes_with_its_last_byte() -> None:
    reader = FrameReader()
    frame = encode(MESSAGES[0])
    assert all(reader.feed(frame[i : i + 1]) == [] for i in range(len(frame) - 1))
    assert reader.feed(frame[-1:]) == [MESSAGES[0]]


def test_messages_that_come_together(ends: tuple[socket.socket, BlockingChannel]) -> None:
    ours, channel = ends
    ours.sendall(STREAM)
    assert [channel.receive() for _ in MESSAGES] == MESSAGES


def test_messages_both_ways(ends: tuple[socket.socket, BlockingChannel]) -> None:
    ours, channel = ends
    channel.send(MESSAGES[5])
    reader = FrameReader()
    assert reader.feed(ours.recv(1 << 16)) == [MESSAGES[5]]


@pytest.mark.parametrize("sent", [b"", encode(MESSAGES[0])[:-1]])
def test_an_end_that_is_closed(sent: bytes, ends: tuple[socket.socket, BlockingChannel]) -> None:
    ours, channel = ends
    ours.sendall(sent)
    ours.close()
    assert channel.receive() is None
    with pytest.raises(OSError, match=r"pipe|reset"):
        channel.send(MESSAGES[1])


def test_bytes_that_are_no_message() -> None:
    frame = encode(MESSAGES[0])
    with pytest.raises(BrokenMessage, match="cannot be read"):
        FrameReader().feed(frame[:4] + bytes(len(frame) - 4))


class Newer(NamedTuple):
    """What a later version sends as its Progress."""

    fraction: float
    seconds: float


def test_a_message_of_a_version_with_another_field(monkeypatch: pytest.MonkeyPatch) -> None:
    Newer.__qualname__, Newer.__module__ = "Progress", wire.__name__
    with monkeypatch.context() as later:
        later.setattr(wire, "Progress", Newer)
        body = pickle.dumps(Newer(0.5, 7))
    with pytest.raises(BrokenMessage, match="files were replaced while it ran, restart the server"):
        FrameReader().feed(struct.pack("<I", len(body)) + body)


def test_a_worker_that_cannot_read_what_to_load() -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "llm_serving_engine.backends.process.worker"]
    with ours:
        with theirs:
            number = theirs.fileno()
            process = subprocess.Popen([*command, str(number)], pass_fds=[number])
        ours.sendall(struct.pack("<I", 4) + b"none")
        received = ours.recv(1 << 16)
        assert process.wait(30) == 0
    (failed,) = FrameReader().feed(received)
    assert isinstance(failed, LoadFailed)
    assert "restart the server" in failed.reason


def test_a_message_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = encode(MESSAGES[0])
    monkeypatch.setattr(wire, "MESSAGE_BYTES_MAX", len(frame) - 4)
    assert FrameReader().feed(frame) == [MESSAGES[0]]
    monkeypatch.setattr(wire, "MESSAGE_BYTES_MAX", len(frame) - 5)
    with pytest.raises(BrokenMessage, match=f"of {len(frame) - 4} bytes; the limit is"):
        FrameReader().feed(frame[:4])


def test_a_part_of_a_message() -> None:
    reader = FrameReader()
    frame = encode(MESSAGES[0])
    assert not reader.partial
    reader.feed(frame[:-1])
    assert reader.partial
    reader.feed(frame[-1:])
    assert not reader.partial


def test_any_recall_is_seen_and_left_for_its_step(
    ends: tuple[socket.socket, BlockingChannel],
) -> None:
    ours, channel = ends
    assert not channel.recalling()
    for message in (Step(1), Step(2), Recall(2)):
        ours.sendall(encode(message))
    assert channel.receive() == Step(1)
    assert channel.recalling()
    assert channel.receive() == Step(2)
    assert channel.recalled(2)
    assert not channel.recalling()


def test_a_step_that_is_called_back(ends: tuple[socket.socket, BlockingChannel]) -> None:
    ours, channel = ends
    for message in (Step(1), Step(2), Recall(2)):
        ours.sendall(encode(message))
    assert channel.receive() == Step(1)
    # The recall of another step is left for that one.
    assert not channel.recalled(1)
    assert channel.receive() == Step(2)
    assert channel.recalled(2)
    ours.sendall(encode(Step(3)))
    assert channel.receive() == Step(3)
    assert not channel.recalled(3)
