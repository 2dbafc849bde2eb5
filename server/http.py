"""HTTP beside gRPC: the OpenAI-style API, /metrics for Prometheus, probes for orchestrators."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from llm_serving_engine.server.telemetry.metrics import Metrics


def make_app(
    metrics: Metrics, serving: Callable[[], bool], routes: Sequence[BaseRoute] = ()
) -> Starlette:
    """The application.

    Args:
        metrics: What /metrics shows.
        serving: Whether a model answers requests, for /readyz and /healthz.
        routes: The API's.
    """

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

    own = (
        Route("/metrics", show_metrics),
        Route("/livez", show_live),
        Route("/readyz", show_ready),
        Route("/healthz", show_ready),
    )
    return Starlette(routes=[*own, *routes])
