"""HTTP beside gRPC: the OpenAI-style API, /metrics for Prometheus, /healthz for probes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from llm_serving_engine.server.config import ConfigError, HttpConfig
from llm_serving_engine.server.telemetry.metrics import Metrics

STOP_SECONDS = 1


def make_app(
    metrics: Metrics, serving: Callable[[], bool], routes: Sequence[BaseRoute] = ()
) -> Starlette:
    """The application. `serving` tells whether requests are answered; `routes` are the API's."""

    def show_metrics(request: Request) -> Response:
        page, content_type = metrics.render()
        return Response(page, media_type=content_type)

    def show_health(request: Request) -> Response:
        if serving():
            return PlainTextResponse("SERVING\n")
        return PlainTextResponse("NOT_SERVING\n", status_code=503)

    own = (Route("/metrics", show_metrics), Route("/healthz", show_health))
    return Starlette(routes=[*own, *routes])


class HttpListener:
    """Serves an application on the running event loop."""

    def __init__(self, app: Starlette, config: HttpConfig) -> None:
        """Take the port. Raises ConfigError where it cannot be had."""
        self._socket = _bind(config)
        self.port: int = self._socket.getsockname()[1]
        self._server = _QuietServer(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to answer."""
        self._task = asyncio.create_task(self._server.serve([self._socket]), name="http")

    async def stop(self) -> None:
        """Stop answering."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()


class _QuietServer(uvicorn.Server):
    """Leaves the process's signals to whoever composes the server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bind(config: HttpConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
        # Now, and not when serving begins: until somebody listens, others can bind it too.
        listener.listen()
    except OSError as error:
        listener.close()
        where = f"{config.host}:{config.port}"
        raise ConfigError(f"cannot listen on {where} for HTTP: {error.strerror}") from error
    return listener
