"""Messages between a runner's host and its worker: length-prefixed pickles.

Pickle is safe here: both ends are of this package, and no other process can open
the socket pair.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
import struct
from typing import NamedTuple

from llm_serving_engine.backends.backend import BackendConfig, LoadReport
from llm_serving_engine.scheduler.step import Capabilities, Step, StepResult

_LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 16
# Log-probabilities of a long prompt take megabytes; nothing takes more than this.
MESSAGE_BYTES_MAX = 256 * 1024 * 1024


class BrokenMessage(Exception):
    """What came is no message: its sender must be given up."""


class Load(NamedTuple):
    """To the worker, first and once: load a model.

    Attributes:
        backend: Its name in the registry.
        path: The model's file.
        config: How to run it.
        read_vocabulary: Whether to read the vocabulary before the weights, and
            say so: the host reads only what a worker has survived reading.
        earlier: What the worker could do that this one replaces.
    """

    backend: str
    path: str
    config: BackendConfig
    read_vocabulary: bool = False
    earlier: Capabilities | None = None


class Progress(NamedTuple):
    """From the worker: the fraction that is loaded."""

    fraction: float


class VocabularyRead(NamedTuple):
    """From the worker: reading the vocabulary does not end a process."""


class Loaded(NamedTuple):
    """From the worker: steps can come."""

    report: LoadReport


class LoadFailed(NamedTuple):
    """From the worker, its last message: the model cannot be loaded.

    Attributes:
        reason: The reason, in one line.
        by_file: Whether the cause is the file, rather than the configuration or
            the machine.
    """

    reason: str
    by_file: bool = False


class Recall(NamedTuple):
    """To the worker: skip a step that was sent, unless it has begun."""

    number: int


class AbortMessage(NamedTuple):
    """From the worker: the message with which the model's library is about to abort."""

    text: str


Message = (
    Load
    | Progress
    | VocabularyRead
    | Loaded
    | LoadFailed
    | AbortMessage
    | Step
    | Recall
    | StepResult
)


def encode(message: Message) -> bytes:
    """A message's frame."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Take in bytes; give the messages that are now complete.

        Raises:
            BrokenMessage: They are none.
        """
        self._buffer += data
        messages = []
        while (frame := self._next_frame()) is not None:
            messages.append(_decode(frame))
        return messages

    @property
    def partial(self) -> bool:
        """Whether a part of a message has come whose rest has not."""
        return bool(self._buffer)

    def _next_frame(self) -> bytes | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        length = _LENGTH.unpack_from(self._buffer)[0]
        if length > MESSAGE_BYTES_MAX:
            raise BrokenMessage(f"a message of {length} bytes; the limit is {MESSAGE_BYTES_MAX}")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        frame = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return frame


def _decode(frame: bytes) -> Message:
    try:
        message: Message = pickle.loads(frame)
    except Exception as error:
        # Damaged bytes can make pickle raise anything.
        raise BrokenMessage(
            f"a message that cannot be read: {error}; "
            "if this program's files were replaced while it ran, restart the server"
        ) from error
    return message


class BlockingChannel:
    """The worker's end: sends and receives one message after the other."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = FrameReader()
        self._inbox: list[Message] = []

    def send(self, message: Message) -> None:
        """Send a message. Raises OSError where the host has gone."""
        self._connection.sendall(encode(message))

    def receive(self) -> Message | None:
        """The next message, or None when the host has closed its end."""
        while not self._inbox:
            data = self._connection.recv(_READ_BYTES)
            if not data:
                return None
            self._inbox.extend(self._reader.feed(data))
        return self._inbox.pop(0)

    def recalling(self) -> bool:
        """Whether any step is called back by a message that has come."""
        self._take_in()
        return any(isinstance(message, Recall) for message in self._inbox)

    def recalled(self, number: int) -> bool:
        """Whether the step of that number is called back by a message that has come."""
        self._take_in()
        recall = Recall(number)
        if recall not in self._inbox:
            return False
        self._inbox.remove(recall)
        return True

    def _take_in(self) -> None:
        """Read what has come, without waiting."""
        with contextlib.suppress(BlockingIOError):
            while data := self._connection.recv(_READ_BYTES, socket.MSG_DONTWAIT):
                self._inbox.extend(self._reader.feed(data))
