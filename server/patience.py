"""How long callers are waited for: to send their request, and to read their answer."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from llm_serving_engine.scheduler.errors import InvalidField, LimitReached, RequestError
from llm_serving_engine.server.config import GrpcConfig
from llm_serving_engine.server.time_limit import TimeLimit
from llm_serving_engine.server.unsent import UnsentRequests

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
        self._unsent_requests = UnsentRequests(config.unsent_requests_max)

    async def read(self, context: Context) -> Any:
        """The one message of a request.

        Raises:
            InvalidField: It does not come, or not in time.
            LimitReached: Too many others are waited for, and it is late.
        """
        message = await self._read(context, self._read_seconds)
        if message is grpc.aio.EOF:
            # So it ends for us where the library refuses the message, too.
            raise InvalidField(
                "request", "is missing: the call ended before its message did, or it is too large"
            )
        return message

    async def read_next(self, context: Context) -> Any:
        """The next message of a stream of requests, whenever it comes; EOF at the end.

        Raises:
            LimitReached: Too many others are waited for, and it is late.
        """
        return await self._read(context, None)

    async def _read(self, context: Context, seconds: float | None) -> Any:
        limit = TimeLimit(seconds, self._unsent)
        self._unsent_requests.begin(limit)
        try:
            return await limit.hold(context.read())
        finally:
            self._unsent_requests.end(limit)
            limit.close()

    def reader(self, context: Context) -> Reader:
        """The caller, as one who reads the messages of a stream."""
        return Reader(context, TimeLimit(self._write_seconds, self._unread))

    def _unsent(self) -> RequestError:
        return InvalidField("request", f"is missing: it did not come in {self._read_seconds:g} s")

    def _unread(self) -> RequestError:
        description = f"the stream was not read for {self._write_seconds:g} s"
        return LimitReached(UNREAD, description, RETRY_SECONDS)


class Reader:
    """Who reads a stream. To be used in a `with` block, by the RPC's task alone."""

    def __init__(self, context: Context, limit: TimeLimit) -> None:
        self._context = context
        self._limit = limit

    async def write(self, message: Any) -> None:
        """Send a message of the stream.

        Raises:
            LimitReached: The caller reads no more.
            CancelledError: The caller has gone.
        """
        try:
            await self._limit.hold(self._context.write(message))
        except grpc.aio.InternalError:  # a write can fail before gRPC cancels the handler
            raise asyncio.CancelledError from None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._limit.close()
