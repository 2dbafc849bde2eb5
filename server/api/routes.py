"""The paths of the API, each with and without `/v1`."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from llm_serving_engine.server.api.chat import ChatCompletions
from llm_serving_engine.server.api.completions import Completions
from llm_serving_engine.server.api.endpoint import Endpoint, ErrorBody, Handler
from llm_serving_engine.server.api.errors import anthropic_body, openai_body
from llm_serving_engine.server.api.messages import Messages
from llm_serving_engine.server.api.models import Models
from llm_serving_engine.server.catalog import Catalog
from llm_serving_engine.server.config import HttpConfig
from llm_serving_engine.server.service.inference import Inference


def api_routes(
    inference: Inference, catalog: Catalog, config: HttpConfig, fingerprint: str
) -> list[BaseRoute]:
    """Every route of the API."""
    models = Models(catalog)
    messages = Messages(inference)
    posts: dict[str, tuple[Handler, ErrorBody]] = {
        "/chat/completions": (ChatCompletions(inference, fingerprint), openai_body),
        "/completions": (Completions(inference, fingerprint), openai_body),
        "/messages": (messages, anthropic_body),
        "/messages/count_tokens": (messages.count_tokens, anthropic_body),
    }
    routes: list[BaseRoute] = []
    for prefix in ("/v1", ""):
        for path, (handler, error_body) in posts.items():
            endpoint = Endpoint(handler, config, error_body)
            routes.append(Route(prefix + path, endpoint, methods=["POST"]))
        routes.append(Route(f"{prefix}/models", models.list, methods=["GET"]))
        routes.append(Route(f"{prefix}/models/{{name:path}}", models.show, methods=["GET"]))
    return routes
