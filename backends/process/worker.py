"""The worker process of a runner: loads a model and executes steps until the host ends."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
from pathlib import Path

from llm_serving_engine.backends import previous_runner
from llm_serving_engine.backends.backend import Backend, BackendFactory, LoadError
from llm_serving_engine.backends.follow import Follower
from llm_serving_engine.backends.llama_library import on_abort
from llm_serving_engine.backends.models.errors import ModelError, ModelFileError, ModelNotFound
from llm_serving_engine.backends.process.limits import end_with_parent, limit_memory
from llm_serving_engine.backends.process.runner_loss import OUT_OF_MEMORY_CODE
from llm_serving_engine.backends.process.wire import (
    AbortMessage,
    BlockingChannel,
    BrokenMessage,
    Load,
    Loaded,
    LoadFailed,
    Progress,
    VocabularyRead,
)
from llm_serving_engine.backends.registry import load_factory
from llm_serving_engine.scheduler.step import Step, StepResult

_BY_FILE = (ModelFileError, ModelNotFound)
# Characters of several scripts and lengths, digits, white space, and a control token's name.
_PROBE = "Hello, w\u00f6rld!\n\t 12345 \u4f60\u597d \U0001f600 <|im_start|></s>"


def main() -> None:
    """Serve the host at the inherited socket whose descriptor is the first argument."""
    # A terminal's Ctrl-C, its end, and a service manager's stop reach the whole group;
    # the host decides when its runners end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    channel = BlockingChannel(socket.socket(fileno=int(sys.argv[1])))
    try:
        backend = _load(channel)
        if backend is not None:
            _serve(channel, backend)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the host has ended, so there is no receiver for an error
    finally:
        # The libraries' own tear-down at exit can hang or crash; the system
        # frees the memory of an ended process anyway.
        os._exit(0 if sys.exc_info()[0] is None else _report_crash())


def _load(channel: BlockingChannel) -> Backend | None:
    def tell(fraction: float) -> None:
        try:
            channel.send(Progress(fraction))
        except OSError:
            os._exit(0)  # the host has gone, and a library's callback cannot raise

    try:
        request = channel.receive()
    except BrokenMessage as error:
        channel.send(LoadFailed(str(error)))
        return None
    if not isinstance(request, Load):
        return None
    if request.config.memory_bytes_max is not None:
        limit_memory(request.config.memory_bytes_max)
    on_abort(lambda text: _send_abort_message(channel, text))
    try:
        previous_runner.remember(request.earlier)
        factory = load_factory(request.backend)
        if request.read_vocabulary:
            _read_vocabulary(factory, request)
            channel.send(VocabularyRead())
        backend = factory(request.path, request.config, tell)
    except (LoadError, ModelError) as error:
        by_file = isinstance(error, _BY_FILE) or isinstance(error.__cause__, _BY_FILE)
        channel.send(LoadFailed(str(error), by_file))
        return None
    # The loaded objects stay, so the garbage collector need not scan them.
    gc.freeze()
    channel.send(Loaded(backend.report))
    return backend


def _read_vocabulary(factory: BackendFactory, request: Load) -> None:
    """Read the vocabulary as the host will: some files abort the process at that."""
    tokenizer = factory.load_tokenizer(Path(request.path), request.config)
    for special in (False, True):
        tokenizer.encode(_PROBE, special=special)


def _send_abort_message(channel: BlockingChannel, text: str) -> None:
    with contextlib.suppress(OSError):
        channel.send(AbortMessage(text))


def _serve(channel: BlockingChannel, backend: Backend) -> None:
    follower = Follower(backend.execute, channel.recalling)
    while (message := channel.receive()) is not None:
        # A Recall that arrives here names a step that has begun already: ignore it.
        if isinstance(message, Step):
            recalled = channel.recalled(message.number)
            result = (
                StepResult(message.number, recalled=True) if recalled else follower.execute(message)
            )
            channel.send(result)


def _report_crash() -> int:
    sys.excepthook(*sys.exc_info())
    sys.stderr.flush()
    return OUT_OF_MEMORY_CODE if isinstance(sys.exc_info()[1], MemoryError) else 1


if __name__ == "__main__":
    main()
