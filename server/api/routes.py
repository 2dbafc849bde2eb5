"""The paths of the API, each with and without `/v1`."""

from __future__ import annotations

from starlette.routing import BaseRoute, Route

from llm_serving_engine.server.api.chat import ChatAnswer
from llm_serving_engine.server.api.chat_types import ChatBody
from llm_serving_engine.server.api.choices import ChoicesHandler
from llm_serving_engine.server.api.completion_types import CompletionBody
from llm_serving_engine.server.api.completions import CompletionAnswer
from llm_serving_engine.server.api.endpoint import (
    ANTHROPIC,
    COMPLETIONS,
    OPENAI,
    RESPONSES,
    TOKENS,
    Dialect,
    Endpoint,
    Handler,
    Refused,
)
from llm_serving_engine.server.api.messages import Messages
from llm_serving_engine.server.api.models import Models
from llm_serving_engine.server.api.openapi import show_document
from llm_serving_engine.server.api.response_store import ResponseStore
from llm_serving_engine.server.api.responses import Responses
from llm_serving_engine.server.api.tokens import Tokens
from llm_serving_engine.server.catalog import Catalog
from llm_serving_engine.server.config import HttpConfig
from llm_serving_engine.server.service.inference import Inference

# Paths that other servers have without a version.
UNVERSIONED = ("/tokenize", "/detokenize", "/tokenizer_info")


def api_routes(
    inference: Inference,
    catalog: Catalog,
    config: HttpConfig,
    fingerprint: str,
    refused: Refused = lambda name, error: None,
) -> list[BaseRoute]:
    """Every route of the API.

    Args:
        inference: Answers.
        catalog: The models.
        config: Limits.
        fingerprint: Of whatever changes tokens.
        refused: Told of requests that end before the service sees them.
    """
    models = Models(catalog)
    chats = ChoicesHandler(inference, "/v1/chat/completions", ChatBody, ChatAnswer, fingerprint)
    completions = ChoicesHandler(
        inference, "/v1/completions", CompletionBody, CompletionAnswer, fingerprint
    )
    messages = Messages(inference)
    store = ResponseStore(config.responses_bytes_max, config.responses_seconds_max)
    responses = Responses(inference, store)
    tokens = Tokens(inference, catalog)
    handlers: list[tuple[str, str, Handler, Dialect]] = [
        ("POST", "/chat/completions", chats, OPENAI),
        ("POST", "/completions", completions, COMPLETIONS),
        ("POST", "/messages", messages, ANTHROPIC),
        ("POST", "/messages/count_tokens", messages.count_tokens, ANTHROPIC),
        ("POST", "/responses", responses, RESPONSES),
        ("POST", "/responses/input_tokens", responses.input_tokens, RESPONSES),
        ("GET", "/responses/{id}", responses.show, OPENAI),
        ("DELETE", "/responses/{id}", responses.forget, OPENAI),
        ("GET", "/responses/{id}/input_items", responses.show_input, OPENAI),
        ("POST", "/responses/{id}/cancel", responses.cancel, OPENAI),
        ("POST", "/tokenize", tokens.tokenize, TOKENS),
        ("POST", "/detokenize", tokens.detokenize, TOKENS),
        ("GET", "/tokenizer_info", tokens.info, OPENAI),
    ]
    routes: list[BaseRoute] = []
    for prefix in ("/v1", ""):
        for method, path, handler, dialect in handlers:
            name = f"{method} {path if path in UNVERSIONED else '/v1' + path}"
            endpoint = Endpoint(handler, config, dialect, name=name, refused=refused)
            routes.append(Route(prefix + path, endpoint, methods=[method]))
        routes.append(Route(f"{prefix}/models", models.list, methods=["GET"]))
        routes.append(Route(f"{prefix}/models/{{name:path}}", models.show, methods=["GET"]))
    routes.append(Route("/openapi.json", show_document, methods=["GET"]))
    return routes
