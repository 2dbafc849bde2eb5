"""The console's paths: the page at `/`, its files and its data below `/console`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from llm_serving_engine.server.catalog import Catalog
from llm_serving_engine.server.console.models import ModelsData
from llm_serving_engine.server.console.pages import (
    CACHING,
    SECURITY_HEADERS,
    STATIC,
    ConsoleFiles,
)

DATA = "/console/data"


def console_routes(catalog: Catalog) -> list[BaseRoute]:
    """Every route of the console."""
    return [
        Route("/", show_page, methods=["GET"]),
        Route(f"{DATA}/models", ModelsData(catalog).show, methods=["GET"]),
        Mount("/console", ConsoleFiles()),
    ]


async def show_page(request: Request) -> Response:
    """The page."""
    return FileResponse(STATIC / "index.html", headers={**SECURITY_HEADERS, **CACHING})
