"""How long callers are waited for: to send their request, and to read their answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from llm_serving_engine.scheduler.errors import InvalidField, LimitReached, RequestError
from llm_serving_engine.server.config import GrpcConfig

UNREAD = "grpc.write_timeout_seconds"
# Whoever did not read may come back at once; but 0 is no delay that can be told.
RETRY_SECONDS = 1.0

Context = grpc.aio.ServicerContext[Any, Any]


class Patience:
    """Reads and writes of an RPC that end in time, whatever its caller does.

    gRPC waits for as long as the connection is alive: for a message of which
    only the half came, and for a reader that has stopped.
    """

    def __init__(self, config: GrpcConfig | None = None) -> None:
        """Wait as long as the configuration says."""
        config = config or GrpcConfig()
        self._read_seconds = config.request_timeout_seconds
        self._write_seconds = config.write_timeout_seconds

    async def read(self, context: Context) -> Any:
        """The one message of a request.

        Raises:
            InvalidField: It does not come, or not in time.
        """
        with _time_limit(self._read_seconds, self._unsent):
            message = await context.read()
        if message is grpc.aio.EOF:
            raise InvalidField("request", "is missing: the call ended before its message did")
        return message

    async def write(self, context: Context, message: Any) -> None:
        """Send a message of a stream. Raises LimitReached where the caller reads no more."""
        with _time_limit(self._write_seconds, self._unread):
            await context.write(message)

    def _unsent(self) -> RequestError:
        return InvalidField("request", f"is missing: it did not come in {self._read_seconds:g} s")

    def _unread(self) -> RequestError:
        description = f"the stream was not read for {self._write_seconds:g} s"
        return LimitReached(UNREAD, description, RETRY_SECONDS)


@contextlib.contextmanager
def _time_limit(seconds: float, error: Callable[[], RequestError]) -> Iterator[None]:
    """Interrupt what is awaited within, and raise `error()`, after `seconds`.

    Made for every message that is written: `asyncio.wait_for` would make a task
    for each, and `asyncio.timeout` is not in Python 3.10.
    """
    task = asyncio.current_task()
    assert task is not None
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, expire)
    try:
        yield
    except asyncio.CancelledError:
        if not expired:
            raise
        if hasattr(task, "uncancel"):  # from Python 3.11 on
            task.uncancel()
        raise error() from None
    finally:
        timer.cancel()
