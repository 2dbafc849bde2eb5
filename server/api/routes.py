"""The paths of the API, each with and without `/v1`."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from llm_serving_engine.server.api.chat import ChatCompletions
from llm_serving_engine.server.api.completions import Completions
from llm_serving_engine.server.api.endpoint import Endpoint, Handler
from llm_serving_engine.server.api.models import Models
from llm_serving_engine.server.catalog import Catalog
from llm_serving_engine.server.config import HttpConfig
from llm_serving_engine.server.service.inference import Inference


def api_routes(
    inference: Inference, catalog: Catalog, config: HttpConfig, fingerprint: str
) -> list[BaseRoute]:
    """Every route of the API."""
    models = Models(catalog)
    posts: dict[str, Handler] = {
        "/chat/completions": ChatCompletions(inference, fingerprint),
        "/completions": Completions(inference, fingerprint),
    }
    routes: list[BaseRoute] = []
    for prefix in ("/v1", ""):
        for path, handler in posts.items():
            endpoint = Endpoint(handler, config)
            routes.append(Route(prefix + path, endpoint, methods=["POST"]))
        routes.append(Route(f"{prefix}/models", models.list, methods=["GET"]))
        routes.append(Route(f"{prefix}/models/{{name:path}}", models.show, methods=["GET"]))
    return routes
