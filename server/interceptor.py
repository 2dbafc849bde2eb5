"""Reads every RPC's request with limits and timeouts, and answers errors with their status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from llm_serving_engine.scheduler.errors import InvalidField, RequestError
from llm_serving_engine.server.message_size import MessageLimits
from llm_serving_engine.server.rpc_timeouts import RpcTimeouts
from llm_serving_engine.server.statuses import abort, internal_answer, to_answer
from llm_serving_engine.server.telemetry.logs import log_request

_logger = logging.getLogger(__name__)

Refused = Callable[[RequestError], None]
Context = grpc.aio.ServicerContext[Any, Any]


class Undecodable:
    """Takes the place of a request whose bytes were refused, with the reason."""

    def __init__(self, error: InvalidField) -> None:
        self.error = error


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns exceptions into the statuses that the API documents.

    gRPC alone would answer a request that is not UTF-8 with INTERNAL, a bug
    with its exception's text, and a partial request never.
    """

    def __init__(
        self,
        timeouts: RpcTimeouts | None = None,
        limits: MessageLimits | None = None,
        refused: Refused = lambda error: None,
    ) -> None:
        """Guard all methods.

        Args:
            timeouts: Bound the waits for callers.
            limits: Bound the size of request messages; None for no limits.
            refused: Told of each request that is refused before a handler sees it.
        """
        self._timeouts = timeouts or RpcTimeouts()
        self._limits = limits
        self._refused = refused

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the method's handler: see `_Guard`."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        guard = _Guard(handler_call_details.method, self._timeouts, self._limits, self._refused)
        return guard.around(handler)


class _Guard:
    """Runs a method's handler.

    Every method is registered with gRPC as one that takes a stream of requests.
    So this class reads the request itself, and can apply a timeout to it.
    """

    def __init__(
        self, method: str, timeouts: RpcTimeouts, limits: MessageLimits | None, refused: Refused
    ) -> None:
        self._method = method
        self._timeouts = timeouts
        self._limits = limits
        self._refused = refused
        self._handle: Any = None

    def around(self, handler: Any) -> Any:
        """Return the handler to give to gRPC in place of `handler`."""
        deserialize = _tolerant(handler.request_deserializer, self._limits)
        if handler.request_streaming:
            self._handle = handler.stream_stream
            wrapped = {"stream_stream": self._converse}
        elif handler.response_streaming:
            self._handle = handler.unary_stream
            wrapped = {"stream_stream": self._stream}
        else:
            self._handle = handler.unary_unary
            wrapped = {"stream_unary": self._answer}
        return handler._replace(request_streaming=True, request_deserializer=deserialize, **wrapped)

    async def _answer(self, requests: object, context: Context) -> Any:
        try:
            return await self._handle(await self._read(context), context)
        except Exception as error:
            await _end(context, error)

    async def _stream(self, requests: object, context: Context) -> None:
        try:
            await self._write_all(self._handle(await self._read(context), context), context)
        except Exception as error:
            await _end(context, error)

    async def _converse(self, requests: object, context: Context) -> None:
        try:
            async with contextlib.aclosing(self._read_all(context)) as messages:
                await self._write_all(self._handle(messages, context), context)
        except Exception as error:
            await _end(context, error)

    async def _write_all(self, answer: Any, context: Context) -> None:
        if not isinstance(answer, AsyncGenerator):
            await answer
            return
        # Closed here at once, not later by the garbage collector.
        async with contextlib.aclosing(answer) as messages:
            with self._timeouts.writer(context) as writer:
                async for message in messages:
                    await writer.write(message)

    async def _read(self, context: Context) -> Any:
        with self._told():
            self._check_metadata(context)
            return _decoded(await self._timeouts.read(context))

    async def _read_all(self, context: Context) -> AsyncGenerator[Any, None]:
        with self._told():
            self._check_metadata(context)
        while True:
            with self._told():
                message = await self._timeouts.read_next(context)
                if message is grpc.aio.EOF:
                    return
                request = _decoded(message)
            yield request

    def _check_metadata(self, context: Context) -> None:
        if self._limits is not None:
            self._limits.check_metadata(context.invocation_metadata() or ())

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Log and count a request that is refused in the block."""
        try:
            yield
        except RequestError as error:
            log_request(rpc=self._method.lstrip("/"), status_code=error.code, error=error)
            self._refused(error)
            raise


def _decoded(request: Any) -> Any:
    if isinstance(request, Undecodable):
        raise request.error
    return request


def _tolerant(
    deserialize: Callable[[bytes], Any], limits: MessageLimits | None
) -> Callable[[bytes], Any]:
    # Generated handlers have `Message.FromString` here, which knows its message.
    kind: Any = getattr(getattr(deserialize, "__self__", None), "DESCRIPTOR", None)

    def attempt(data: bytes) -> Any:
        try:
            if limits is not None and kind is not None:
                limits.check(data, kind)
            return deserialize(data)
        except InvalidField as error:
            return Undecodable(error)
        except DecodeError:
            description = "is not a valid message: are all strings UTF-8?"
            return Undecodable(InvalidField("request", description))

    return attempt


async def _end(context: Context, error: Exception) -> None:
    """End an RPC with the status of an error. Always raises."""
    if isinstance(error, grpc.aio.AbortError):
        raise error  # its status is set already
    if isinstance(error, grpc.aio.InternalError):
        raise asyncio.CancelledError  # the caller has gone before gRPC could say so
    try:
        if isinstance(error, RequestError):
            await abort(context, to_answer(error))
        _logger.error("an RPC failed", exc_info=error)
        await abort(context, internal_answer())
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None
    except grpc.aio.AbortError as ended:
        # After gRPC has caught it: until then, the error collects more frames.
        asyncio.get_running_loop().call_soon(_forget_frames, ended)
        raise


def _forget_frames(error: BaseException | None) -> None:
    """Drop an error's references to its traceback's frames and to its context.

    gRPC stores the error that ends an RPC with the RPC, and the frames refer to
    the RPC and to the request's bytes. This cycle would stay in memory until the
    next full garbage collection, and those are rare.
    """
    while error is not None:
        error.__traceback__, error.__context__, error = None, None, error.__context__
