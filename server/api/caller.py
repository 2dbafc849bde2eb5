"""Derives the caller from an HTTP request."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from llm_serving_engine.scheduler.errors import InvalidField
from llm_serving_engine.server.api.http_exchange import HttpExchange
from llm_serving_engine.server.api.numbers import is_number
from llm_serving_engine.server.service.caller import Caller, no_deadline
from llm_serving_engine.server.telemetry.attributes import http_attributes

TENANT_HEADER = "x-tenant-id"
TIMEOUT_HEADER = "x-request-timeout"


def caller_of(exchange: HttpExchange, route: str, timeout: float | None = None) -> Caller:
    """Return the caller with its deadline; mark the request as observed by the service.

    Args:
        exchange: The request.
        route: The route's template, such as `/v1/completions`.
        timeout: Seconds that the body gives the answer; the header counts where it gives none.

    Raises:
        InvalidField: The header is no number of seconds.
    """
    remaining = _remaining(exchange, timeout)
    exchange.observed = True
    return Caller(
        method=f"POST {route}",
        tenant=tenant_of(exchange),
        remaining=remaining,
        metadata=tuple(exchange.headers.items()),
        attributes=http_attributes("POST", route),
    )


def tenant_of(exchange: HttpExchange) -> str:
    """Return the request's tenant; empty if it names none."""
    return exchange.headers.get(TENANT_HEADER, "")


def _remaining(exchange: HttpExchange, timeout: float | None) -> Callable[[], float | None]:
    seconds = timeout if timeout is not None else _header_seconds(exchange)
    if seconds is None:
        return no_deadline
    deadline = exchange.arrived_at + seconds

    def remaining() -> float | None:
        return deadline - time.monotonic()

    return remaining


def _header_seconds(exchange: HttpExchange) -> float | None:
    text = exchange.headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    seconds = float(text) if is_number(text) else math.nan
    if not 0 < seconds < math.inf:
        raise InvalidField(
            TIMEOUT_HEADER, f"is {text[:32]!r}; it can be a number of seconds above 0"
        )
    return seconds
