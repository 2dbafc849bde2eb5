"""Composes the HTTP application: API, console, /metrics for Prometheus, and probes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from llm_serving_engine.server.api.errors import HttpError, openai_body
from llm_serving_engine.server.api.hosts import HostCheck
from llm_serving_engine.server.config import HttpConfig
from llm_serving_engine.server.refusals import FORBIDDEN_HOST, METHOD, UNKNOWN_PATH
from llm_serving_engine.server.telemetry.metrics import Metrics

# Of a path that there is not, as the error repeats it.
PATH_CHARACTERS_MAX = 100
# The origins of pages that this machine serves, in whatever way it is called.
LOCAL_ORIGINS = r"https?://(localhost|[a-z0-9-]+\.localhost|127(\.\d+){3}|\[::1\])(:\d+)?"
# What browsers may send to the API, and what pages may read of its answers.
REQUEST_HEADERS = (
    "authorization",
    "content-type",
    "x-api-key",
    "x-request-id",
    "x-request-timeout",
    "x-tenant-id",
    "anthropic-version",
    "anthropic-beta",
    "anthropic-dangerous-direct-browser-access",
    "x-stainless-arch",
    "x-stainless-helper-method",
    "x-stainless-lang",
    "x-stainless-os",
    "x-stainless-package-version",
    "x-stainless-retry-count",
    "x-stainless-runtime",
    "x-stainless-runtime-version",
    "x-stainless-timeout",
)
ANSWER_HEADERS = ("x-request-id", "request-id", "x-ignored-fields", "retry-after", "retry-after-ms")


def make_app(
    metrics: Metrics,
    serving: Callable[[], bool],
    config: HttpConfig | None = None,
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """The application.

    Args:
        metrics: What /metrics shows.
        serving: Whether a model answers requests, for /readyz and /healthz.
        config: Whose pages may use the API, and under which names.
        routes: The API's and the console's.
    """
    config = config or HttpConfig()

    async def show_metrics(request: Request) -> Response:
        page, content_type = await asyncio.to_thread(metrics.read().render)
        return Response(page, media_type=content_type)

    async def show_ready(request: Request) -> Response:
        if serving():
            return PlainTextResponse("SERVING\n")
        return PlainTextResponse("NOT_SERVING\n", status_code=503)

    async def show_live(request: Request) -> Response:
        # An answer of any kind says that the event loop turns.
        return PlainTextResponse("LIVE\n")

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        reason = METHOD if error.status_code == 405 else UNKNOWN_PATH
        metrics.http_refused(reason, error.status_code)
        answer = HttpError(error.status_code, "invalid_request_error", reason, _missing(request))
        return JSONResponse(openai_body(answer), error.status_code, error.headers)

    own = (
        Route("/metrics", show_metrics),
        Route("/livez", show_live),
        Route("/readyz", show_ready),
        Route("/healthz", show_ready),
    )
    return Starlette(
        routes=[*own, *routes],
        middleware=_browser_rules(config, metrics),
        exception_handlers={404: refuse, 405: refuse},
    )


def _missing(request: Request) -> str:
    path = request.url.path
    shown = path if len(path) <= PATH_CHARACTERS_MAX else f"{path[:PATH_CHARACTERS_MAX]}..."
    return f"there is no {request.method} {shown}; see /openapi.json"


def _browser_rules(config: HttpConfig, metrics: Metrics) -> list[Middleware]:
    """Return the allowed hosts, and the origins whose pages may read responses."""
    cors = Middleware(
        CORSMiddleware,
        allow_origins=config.cors_origins,
        allow_origin_regex=LOCAL_ORIGINS,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=REQUEST_HEADERS,
        expose_headers=ANSWER_HEADERS,
    )

    def refused() -> None:
        metrics.http_refused(FORBIDDEN_HOST, 403)

    return [Middleware(HostCheck, config.host, config.hosts, refused), cors]
