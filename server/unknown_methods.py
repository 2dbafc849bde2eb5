"""Answers calls of unknown methods, with any name.

grpc.aio decodes the name of an unknown method as UTF-8. If that fails, its accept
loop ends, so any client could stop the server with one request. Therefore this
module gives all unknown methods one name, and theirs is never decoded. It uses
private parts of grpc.aio, as there is no public interface; a test sends such a name.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

# No caller can ask for it: the path of a request has no blanks.
_SERVICE, _METHOD = "unknown method", "any"
_NAME = f"/{_SERVICE}/{_METHOD}".encode()

Context = grpc.aio.ServicerContext[Any, Any]


class _Server(cygrpc.AioServer):  # type: ignore[misc]
    """Handles calls of unknown methods as calls of a known one."""

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        if method is None:
            return asyncio.get_running_loop().create_future()  # never: see below
        if method == _NAME:
            unknown: asyncio.Future[Any] = asyncio.ensure_future(self._request_call())
            return unknown
        known: asyncio.Future[Any] = super()._make_request_call_future(method)
        return known


@contextlib.contextmanager
def tolerated() -> Iterator[None]:
    """Servers made within are not ended by the name of an unknown method."""
    original = cygrpc.AioServer
    cygrpc.AioServer = _Server
    try:
        yield
    finally:
        cygrpc.AioServer = original


def answer_unknown_methods(server: grpc.aio.Server) -> None:
    """Answer their calls with UNIMPLEMENTED, on a server that tolerates them.

    Methods that are only in generic handlers count as unknown.
    """
    handler: Any = grpc.stream_stream_rpc_method_handler(_refuse)
    server.add_registered_method_handlers(_SERVICE, {_METHOD: handler})


async def _refuse(requests: object, context: Context) -> None:
    del requests
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")
