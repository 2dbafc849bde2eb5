"""Times out callers that do not send their request, and slow readers of an answer."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from llm_serving_engine.scheduler.durations import duration
from llm_serving_engine.scheduler.errors import InvalidField, LimitReached, RequestError
from llm_serving_engine.server.config import GrpcConfig
from llm_serving_engine.server.time_limit import TimeLimit
from llm_serving_engine.server.unsent_requests import UnsentRequests

UNREAD = "grpc.write_timeout_seconds"
# A slow reader may retry at once, but a retry delay of 0 cannot be sent.
RETRY_SECONDS = 1.0

Context = grpc.aio.ServicerContext[Any, Any]


class RpcTimeouts:
    """Bounds the time that reads and writes of an RPC wait for the caller.

    gRPC sets no bound while the connection is alive: it waits for the rest of
    a message that was sent in part, and for a reader that has stopped reading.
    """

    def __init__(self, config: GrpcConfig | None = None) -> None:
        """Take the timeouts and the limit of unsent requests from the configuration."""
        config = config or GrpcConfig()
        self._read_seconds = config.request_timeout_seconds
        self._write_seconds = config.write_timeout_seconds
        self._unsent_requests = UnsentRequests(config.unsent_requests_max)

    async def read(self, context: Context) -> Any:
        """Read the one message of a request.

        Raises:
            InvalidField: The message is missing, or was not complete in time.
            LimitReached: Too many RPCs wait for their message, and this one waits longest.
        """
        message = await self._read(context, self._read_seconds)
        if message is grpc.aio.EOF:
            # gRPC reports a message that it refuses for its size in the same way.
            raise InvalidField(
                "request", "is missing: the call ended before its message did, or it is too large"
            )
        return message

    async def read_next(self, context: Context) -> Any:
        """Read the next message of a request stream, without a timeout; EOF at its end.

        Raises:
            LimitReached: Too many RPCs wait for their message, and this one waits longest.
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

    def writer(self, context: Context) -> StreamWriter:
        """Return a writer of the RPC's response stream, with the write timeout."""
        return StreamWriter(context, TimeLimit(self._write_seconds, self._unread))

    def _unsent(self) -> RequestError:
        return InvalidField(
            "request", f"is missing: it did not come in {duration(self._read_seconds)}"
        )

    def _unread(self) -> RequestError:
        description = f"the stream was not read for {duration(self._write_seconds)}"
        return LimitReached(UNREAD, description, RETRY_SECONDS)


class StreamWriter:
    """Writes a response stream. Use it in a `with` block, from the RPC's task only."""

    def __init__(self, context: Context, limit: TimeLimit) -> None:
        self._context = context
        self._limit = limit

    async def write(self, message: Any) -> None:
        """Send a message of the stream.

        Raises:
            LimitReached: The caller did not read for the write timeout.
            CancelledError: The caller has disconnected.
        """
        try:
            await self._limit.hold(self._context.write(message))
        except grpc.aio.InternalError:  # a write can fail before gRPC cancels the handler
            raise asyncio.CancelledError from None

    def __enter__(self) -> StreamWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._limit.close()
