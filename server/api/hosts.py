"""Checks the Host header, so that a page of a foreign host cannot reach a local server.

A browser lets a page talk to the host that the page came from. A name that first
stands for the page's server and then for 127.0.0.1 (DNS rebinding) would make
that host this server. Its requests give it away: they name the foreign host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from llm_serving_engine.server.api.errors import HttpError, openai_body

ANY = "*"
LOCAL_NAME = "localhost"


class HostCheck:
    """Answers 403 to requests that name a host which is not this machine."""

    def __init__(
        self,
        app: ASGIApp,
        listening_on: str,
        allowed: Iterable[str],
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        """Wrap an application.

        Args:
            app: The application.
            listening_on: The configured host. Beyond loopback, machines reach this one
                by names that it cannot know, and nothing is checked.
            allowed: More names that requests may use; "*" for all.
            refused: Told of each request that is refused.
        """
        self._refused = refused
        self._app = app
        self._allowed = frozenset(name.lower() for name in allowed)
        self._checks = _is_local(listening_on) and ANY not in self._allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and self._checks:
            host = _without_port(Headers(scope=scope).get("host", LOCAL_NAME)).lower()
            if not (_is_local(host) or host in self._allowed):
                self._refused()
                message = f"requests for the host {host[:80]!r} are not answered; see http.hosts"
                error = HttpError(403, "invalid_request_error", "forbidden_host", message)
                await JSONResponse(openai_body(error), error.status)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_local(host: str) -> bool:
    """Whether a host stands for this machine, or is a path, or an address: never a foreign name."""
    name = host.removeprefix("[").removesuffix("]")
    if name == LOCAL_NAME or name.endswith(f".{LOCAL_NAME}") or name.startswith("unix:"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
