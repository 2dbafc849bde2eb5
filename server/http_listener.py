"""Serves the HTTP application on its sockets, on the running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from llm_serving_engine.server.addresses import Address, bind, parse_address
from llm_serving_engine.server.config import ConfigError, HttpConfig
from llm_serving_engine.server.http_protocol import Bodies, BoundedHttpProtocol, Refused

STOP_SECONDS = 1


def _ignore(reason: str, status: int) -> None:
    """Count nothing: the default."""


class HttpListener:
    """Serves an application on the running event loop.

    Attributes:
        addresses: Where it listens, with the ports that were taken.
        port: The first port, or 0 where it listens on paths alone.
    """

    def __init__(self, app: ASGIApp, config: HttpConfig, refused: Refused = _ignore) -> None:
        """Take the ports.

        Args:
            app: The application.
            config: Addresses and limits.
            refused: Told of each connection or request that a limit refuses,
                with the reason (`refusals.HTTP_REFUSALS`) and the status, 0 for none.

        Raises:
            ConfigError: A port cannot be had.
        """
        wanted = [Address.of(config.host, config.port), *map(parse_address, config.listen)]
        self._sockets = _bind_all(wanted)
        self.addresses = tuple(map(_taken, wanted, self._sockets))
        self.port = next((address.port for address in self.addresses if address.port), 0)
        protocol: Any = functools.partial(
            BoundedHttpProtocol, limits=config, refused=refused, bodies=Bodies()
        )
        self._server = _Server(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                # uvicorn asks for whole seconds, and asyncio takes any number.
                timeout_keep_alive=config.idle_timeout_seconds,  # type: ignore[arg-type]
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to answer."""
        self._task = asyncio.create_task(self._server.serve(self._sockets), name="http")

    async def stop(self) -> None:
        """Stop answering."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        for listener, address in zip(self._sockets, self.addresses, strict=True):
            listener.close()
            if address.path:
                with contextlib.suppress(OSError):
                    os.unlink(address.path)


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signal handlers alone and supports Unix sockets."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        paths = [one for one in sockets or () if one.family == socket.AF_UNIX]
        await super().startup([one for one in sockets or () if one not in paths])
        protocol: Any = self.config.http_protocol_class
        make = functools.partial(
            protocol,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        loop = asyncio.get_running_loop()
        for path in paths:
            server = await loop.create_unix_server(make, sock=path)
            self.servers.append(server)


def _bind_all(addresses: list[Address]) -> list[socket.socket]:
    with contextlib.ExitStack() as taken:
        sockets = [taken.enter_context(_bind(address)) for address in addresses]
        taken.pop_all()
    return sockets


def _bind(address: Address) -> socket.socket:
    try:
        return bind(address)
    except OSError as error:
        problem = f"cannot listen on {address} for HTTP: {error.strerror or error}"
        raise ConfigError(problem) from error


def _taken(wanted: Address, listener: socket.socket) -> Address:
    """Return the address with its bound port."""
    if wanted.path:
        return wanted
    return Address(wanted.host, listener.getsockname()[1])
