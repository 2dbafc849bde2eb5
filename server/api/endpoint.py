"""An endpoint calls a handler and turns its errors into responses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from starlette.types import Receive, Scope, Send

from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.server.api.errors import (
    HttpError,
    anthropic_body,
    http_error,
    openai_body,
)
from llm_serving_engine.server.api.http_exchange import REQUEST_ID_HEADER, HttpExchange
from llm_serving_engine.server.api.sse import event, named_event
from llm_serving_engine.server.config import HttpConfig

_logger = logging.getLogger(__name__)

Handler = Callable[[HttpExchange], Awaitable[None]]
Refused = Callable[[str, RequestError], None]
"""Told of each request that ends before the service sees it: its route, and the error."""


class Dialect(NamedTuple):
    """An API's form of errors.

    Attributes:
        body: The body of an answer.
        event: What ends a stream that has begun, made of such a body.
        fields: Its names for the fields that OpenAI's chat API calls otherwise.
        request_id_headers: Where its clients look for the request's id.
    """

    body: Callable[[HttpError], dict[str, Any]]
    event: Callable[[dict[str, Any]], bytes]
    fields: Mapping[str, str] = {}
    request_id_headers: Sequence[str] = (REQUEST_ID_HEADER,)


OPENAI = Dialect(openai_body, event)
ANTHROPIC = Dialect(
    anthropic_body,
    lambda body: named_event("error", body),
    {"stop": "stop_sequences"},
    (REQUEST_ID_HEADER, "request-id"),
)
COMPLETIONS = Dialect(openai_body, event, {"top_logprobs": "logprobs"})
TOKENS = Dialect(openai_body, event, {"token_ids": "tokens"})
# The events of a response tell of its failure themselves.
RESPONSES = Dialect(
    openai_body, lambda body: b"", {"max_tokens": "max_output_tokens", "messages": "input"}
)


class Endpoint:
    """An ASGI application that answers one kind of request, errors included."""

    def __init__(
        self,
        handle: Handler,
        config: HttpConfig,
        dialect: Dialect = OPENAI,
        *,
        name: str = "",
        refused: Refused = lambda name, error: None,
    ) -> None:
        """Answer requests with a handler.

        Args:
            handle: Answers one request. It may raise RequestError.
            config: Limits.
            dialect: How errors are told.
            name: The route, for the log.
            refused: Told of what the service does not see.
        """
        self._name = name
        self._refused = refused
        self._handle = handle
        self._config = config
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        exchange = HttpExchange(scope, receive, send, self._config)
        for header in self._dialect.request_id_headers:
            exchange.add_header(header, exchange.request_id)
        try:
            await self._handle(exchange)
        except RequestError as error:
            if not exchange.observed:
                self._refused(self._name, error)
            await self._refuse(exchange, http_error(error, self._dialect.fields))
        except asyncio.CancelledError:
            # The client has disconnected: there is nobody to answer.
            if not exchange.gone:
                raise
        except Exception:
            _logger.exception("%s failed", exchange.path)
            await self._refuse(exchange, http_error(RequestError()))
        finally:
            exchange.close()

    async def _refuse(self, exchange: HttpExchange, error: HttpError) -> None:
        body = self._dialect.body(error)
        if exchange.begun:
            await exchange.fail(self._dialect.event(body))
        else:
            await exchange.answer(body, error.status, error.headers)
