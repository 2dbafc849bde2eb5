"""The OpenAPI document: every path is in it, and it holds together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from http_pages import get
from running_server import RunningServer
from starlette.routing import Route

from llm_serving_engine.server.api.openapi import SCHEMAS
from llm_serving_engine.server.api.routes import UNVERSIONED, api_routes
from llm_serving_engine.server.http import make_app
from llm_serving_engine.server.telemetry.metrics import Metrics

HIDDEN = {"/", "/openapi.json"}


def served(server: RunningServer) -> set[tuple[str, str]]:
    """Method and path of every route, with `/v1` where it can be."""
    app = server.app
    routes = api_routes(app.inference, app.catalog, app.config.http, "")
    every = make_app(Metrics(), lambda: True, routes=routes).routes
    found = set()
    for route in every:
        assert isinstance(route, Route)
        path = route.path.replace(":path", "")
        versioned = path.removeprefix("/v1")
        if versioned != path:
            path = versioned if versioned in UNVERSIONED else path
        elif any(isinstance(r, Route) and r.path == f"/v1{route.path}" for r in every):
            path = path if path in UNVERSIONED else f"/v1{path}"
        found |= {(method, path) for method in (route.methods or set()) - {"HEAD"}}
    return {(method, path) for method, path in found if path not in HIDDEN}


async def test_every_path_is_documented(scripted: RunningServer) -> None:
    document = (await get(scripted, "/openapi.json")).json()
    documented = {
        (method.upper(), path) for path, item in document["paths"].items() for method in item
    }
    assert documented == served(scripted)


async def test_references_lead_somewhere(scripted: RunningServer) -> None:
    document = (await get(scripted, "/openapi.json")).json()
    schemas = document["components"]["schemas"]
    named = [reference.removeprefix(SCHEMAS) for reference in references(document)]
    assert set(named) <= schemas.keys()
    chat = schemas["ChatBody"]["properties"]
    assert {"messages", "temperature", "priority", "template_arguments"} <= chat.keys()


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            if name == "$ref":
                yield part
            else:
                yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)
