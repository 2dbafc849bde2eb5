"""Serves the console's files, with headers that forbid its page to load from other origins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
# Browsers ask whether a file has changed, so that an upgraded server is seen at once.
CACHING = {"cache-control": "no-cache"}


class ConsoleFiles(StaticFiles):
    """Serves the files of the package."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    def file_response(
        self, full_path: str | os.PathLike[str], *arguments: Any, **named: Any
    ) -> Response:
        """Return a file, or "not modified", with the console's headers."""
        response = super().file_response(full_path, *arguments, **named)
        response.headers.update({**SECURITY_HEADERS, **CACHING})
        return response
