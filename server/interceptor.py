"""What every RPC goes through: requests that cannot be decoded, and errors."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from llm_serving_engine.scheduler.errors import InvalidField, RequestError
from llm_serving_engine.server.statuses import abort, internal_answer, to_answer
from llm_serving_engine.server.telemetry.logs import log_request

_logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class Undecodable:
    """Stands for a request whose bytes are not the message they should be."""

    def __init__(self, method: str) -> None:
        self.method = method

    def error(self) -> InvalidField:
        """What the caller is told."""
        return InvalidField("request", "is not a valid message: are all strings UTF-8?")


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns what goes wrong into the statuses of the contract.

    gRPC itself would answer a request that is not UTF-8 with INTERNAL, and a
    bug with its exception's text.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the method's handler."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        method = handler_call_details.method
        if handler.response_streaming:
            wrapped = {"unary_stream": _guard_stream(handler.unary_stream)}
        else:
            wrapped = {"unary_unary": _guard_unary(handler.unary_unary)}
        deserialize = _tolerant(handler.request_deserializer, method)
        return handler._replace(request_deserializer=deserialize, **wrapped)


def _tolerant(deserialize: Callable[[bytes], Any], method: str) -> Callable[[bytes], Any]:
    def attempt(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return Undecodable(method)

    return attempt


def _guard_unary(handle: Any) -> Any:
    async def guarded(request: Any, context: Context) -> Any:
        try:
            return await handle(_decoded(request), context)
        except Exception as error:
            await _answer(context, error)

    return guarded


def _guard_stream(handle: Any) -> Any:
    async def guarded(request: Any, context: Context) -> None:
        try:
            answer = handle(_decoded(request), context)
            if isinstance(answer, AsyncIterator):
                async for message in answer:
                    await context.write(message)
            else:
                await answer
        except Exception as error:
            await _answer(context, error)

    return guarded


def _decoded(request: Any) -> Any:
    if isinstance(request, Undecodable):
        error = request.error()
        log_request(rpc=request.method.lstrip("/"), status_code=error.code, error=error)
        raise error
    return request


async def _answer(context: Context, error: Exception) -> None:
    if isinstance(error, RequestError):
        await abort(context, to_answer(error))
    if isinstance(error, grpc.aio.AbortError):
        raise error  # it has its status already
    _logger.error("an RPC failed", exc_info=error)
    await abort(context, internal_answer())
