"""The process that a model runs in: load, then execute steps until the host has gone."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys

from llm_serving_engine.backends.backend import Backend, LoadError
from llm_serving_engine.backends.process.limits import end_with_parent, limit_memory
from llm_serving_engine.backends.process.loss import OUT_OF_MEMORY_CODE
from llm_serving_engine.backends.process.wire import (
    BlockingChannel,
    Load,
    Loaded,
    LoadFailed,
    Progress,
)
from llm_serving_engine.backends.registry import load_factory
from llm_serving_engine.scheduler.step import Step, StepResult


def main() -> None:
    """Serve the host at the inherited socket whose descriptor is the first argument."""
    # A terminal's Ctrl-C and a service manager's stop reach the whole group;
    # the host decides when its runners end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
    channel = BlockingChannel(socket.socket(fileno=int(sys.argv[1])))
    try:
        backend = _load(channel)
        if backend is not None:
            _serve(channel, backend)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the host has gone, and nobody is left to tell
    finally:
        # The libraries' own tear-down at exit can hang or crash; memory is
        # given back by the end of the process.
        os._exit(0 if sys.exc_info()[0] is None else _report_crash())


def _load(channel: BlockingChannel) -> Backend | None:
    def tell(fraction: float) -> None:
        try:
            channel.send(Progress(fraction))
        except OSError:
            os._exit(0)  # the host has gone, and a library's callback cannot raise

    request = channel.receive()
    if not isinstance(request, Load):
        return None
    if request.config.memory_bytes_max is not None:
        limit_memory(request.config.memory_bytes_max)
    try:
        factory = load_factory(request.backend)
        backend = factory(request.path, request.config, tell)
    except LoadError as error:
        channel.send(LoadFailed(str(error)))
        return None
    # What is loaded stays, and is no affair of the collector's between two steps.
    gc.freeze()
    channel.send(Loaded(backend.report))
    return backend


def _serve(channel: BlockingChannel, backend: Backend) -> None:
    result = StepResult(0)
    while isinstance(step := channel.receive(), Step):
        result = backend.execute(step.following(result))
        channel.send(result)


def _report_crash() -> int:
    sys.excepthook(*sys.exc_info())
    sys.stderr.flush()
    return OUT_OF_MEMORY_CODE if isinstance(sys.exc_info()[1], MemoryError) else 1


if __name__ == "__main__":
    main()
