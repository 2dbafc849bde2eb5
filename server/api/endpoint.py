"""An endpoint: a handler, and how its errors are answered."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import Receive, Scope, Send

from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.server.api.errors import HttpError, http_error, openai_body
from llm_serving_engine.server.api.exchange import Exchange
from llm_serving_engine.server.config import HttpConfig

_logger = logging.getLogger(__name__)

Handler = Callable[[Exchange], Awaitable[None]]
ErrorBody = Callable[[HttpError], dict[str, Any]]


class Endpoint:
    """An ASGI application that answers one kind of request, errors included."""

    def __init__(
        self, handle: Handler, config: HttpConfig, error_body: ErrorBody = openai_body
    ) -> None:
        self._handle = handle
        self._config = config
        self._error_body = error_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        exchange = Exchange(scope, receive, send, self._config)
        if request_id := exchange.headers.get("x-request-id"):
            exchange.add_header("x-request-id", request_id[:128])
        try:
            await self._handle(exchange)
        except RequestError as error:
            await self._refuse(exchange, http_error(error))
        except asyncio.CancelledError:
            # The client has gone, and so has whoever could be told.
            if not exchange.gone:
                raise
        except Exception:
            _logger.exception("%s failed", exchange.path)
            await self._refuse(exchange, http_error(RequestError()))
        finally:
            exchange.close()

    async def _refuse(self, exchange: Exchange, error: HttpError) -> None:
        body = self._error_body(error)
        if exchange.begun:
            await exchange.fail(b"data: " + json.dumps(body).encode() + b"\n\n")
        else:
            await exchange.answer(body, error.status, error.headers)
