"""The paths of the API, each with and without `/v1`."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from llm_serving_engine.server.api.chat import ChatCompletions
from llm_serving_engine.server.api.completions import Completions
from llm_serving_engine.server.api.endpoint import (
    ANTHROPIC,
    OPENAI,
    RESPONSES,
    Dialect,
    Endpoint,
    Handler,
)
from llm_serving_engine.server.api.messages import Messages
from llm_serving_engine.server.api.models import Models
from llm_serving_engine.server.api.response_store import ResponseStore
from llm_serving_engine.server.api.responses import Responses
from llm_serving_engine.server.catalog import Catalog
from llm_serving_engine.server.config import HttpConfig
from llm_serving_engine.server.service.inference import Inference


def api_routes(
    inference: Inference, catalog: Catalog, config: HttpConfig, fingerprint: str
) -> list[BaseRoute]:
    """Every route of the API."""
    models = Models(catalog)
    messages = Messages(inference)
    store = ResponseStore(config.responses_bytes_max, config.responses_seconds_max)
    responses = Responses(inference, store)
    handlers: list[tuple[str, str, Handler, Dialect]] = [
        ("POST", "/chat/completions", ChatCompletions(inference, fingerprint), OPENAI),
        ("POST", "/completions", Completions(inference, fingerprint), OPENAI),
        ("POST", "/messages", messages, ANTHROPIC),
        ("POST", "/messages/count_tokens", messages.count_tokens, ANTHROPIC),
        ("POST", "/responses", responses, RESPONSES),
        ("POST", "/responses/input_tokens", responses.input_tokens, OPENAI),
        ("GET", "/responses/{id}", responses.show, OPENAI),
        ("DELETE", "/responses/{id}", responses.forget, OPENAI),
        ("GET", "/responses/{id}/input_items", responses.show_input, OPENAI),
        ("POST", "/responses/{id}/cancel", responses.cancel, OPENAI),
    ]
    routes: list[BaseRoute] = []
    for prefix in ("/v1", ""):
        for method, path, handler, dialect in handlers:
            endpoint = Endpoint(handler, config, dialect)
            routes.append(Route(prefix + path, endpoint, methods=[method]))
        routes.append(Route(f"{prefix}/models", models.list, methods=["GET"]))
        routes.append(Route(f"{prefix}/models/{{name:path}}", models.show, methods=["GET"]))
    return routes
