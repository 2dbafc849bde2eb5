"""How long callers are waited for: to send their request, and to read their answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

from llm_serving_engine.scheduler.errors import InvalidField, LimitReached, RequestError
from llm_serving_engine.server.config import GrpcConfig

UNREAD = "grpc.write_timeout_seconds"
# Whoever did not read may come back at once; but 0 is no delay that can be told.
RETRY_SECONDS = 1.0

_Value = TypeVar("_Value")

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
        limit = _TimeLimit(self._read_seconds, self._unsent)
        try:
            message = await limit.hold(context.read())
        finally:
            limit.close()
        if message is grpc.aio.EOF:
            raise InvalidField("request", "is missing: the call ended before its message did")
        return message

    def reader(self, context: Context) -> Reader:
        """The caller, as one who reads the messages of a stream."""
        return Reader(context, _TimeLimit(self._write_seconds, self._unread))

    def _unsent(self) -> RequestError:
        return InvalidField("request", f"is missing: it did not come in {self._read_seconds:g} s")

    def _unread(self) -> RequestError:
        description = f"the stream was not read for {self._write_seconds:g} s"
        return LimitReached(UNREAD, description, RETRY_SECONDS)


class Reader:
    """Who reads a stream. To be used in a `with` block, by the RPC's task alone."""

    def __init__(self, context: Context, limit: _TimeLimit) -> None:
        self._context = context
        self._limit = limit

    async def write(self, message: Any) -> None:
        """Send a message of the stream. Raises LimitReached where the caller reads no more."""
        await self._limit.hold(self._context.write(message))

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._limit.close()


class _TimeLimit:
    """Interrupts a task that waits too long, again and again.

    A stream waits for every one of its messages. A timer for each would be a
    good part of what a token costs: so there is one for all, which is put off
    where it finds that another wait has begun.
    """

    def __init__(self, seconds: float, error: Callable[[], RequestError]) -> None:
        """Hold the running task to `seconds` a wait; else it gets `error()`."""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._error = error
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._expired = False

    async def hold(self, awaitable: Awaitable[_Value]) -> _Value:
        """What `awaitable` gives. Raises `error()` where it does not come in time."""
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._since + self._seconds, self._look)
        try:
            return await awaitable
        except asyncio.CancelledError:
            if not self._expired:
                raise
            if hasattr(self._task, "uncancel"):  # from Python 3.11 on
                self._task.uncancel()
            raise self._error() from None
        finally:
            self._since = None

    def close(self) -> None:
        """Hold the task to nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self._since is None:
            return
        end = self._since + self._seconds
        if end > self._loop.time():
            self._timer = self._loop.call_at(end, self._look)
        else:
            self._expired = True
            self._task.cancel()
