"""Builds the OpenAPI document from the types of the bodies."""

from __future__ import annotations

import functools
from importlib import metadata
from typing import Any, NamedTuple

from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse

from llm_serving_engine.server.api.body import Body
from llm_serving_engine.server.api.chat_types import ChatBody
from llm_serving_engine.server.api.completion_types import CompletionBody
from llm_serving_engine.server.api.message_types import ConversationBody, MessagesBody
from llm_serving_engine.server.api.response_types import ResponseBody
from llm_serving_engine.server.api.token_types import DetokenizeBody, TokenizeBody

SCHEMAS = "#/components/schemas/"


class Operation(NamedTuple):
    """One operation of the API.

    Attributes:
        method: In lower case.
        path: Its path, with its parameters in braces.
        summary: What it does.
        body: The type of its body, where it has one.
        streams: Whether it can answer with server-sent events.
    """

    method: str
    path: str
    summary: str
    body: type[Body] | None = None
    streams: bool = False


OPERATIONS = (
    Operation("post", "/v1/chat/completions", "Continue a conversation", ChatBody, True),
    Operation("post", "/v1/completions", "Continue texts", CompletionBody, True),
    Operation("post", "/v1/messages", "Continue a conversation", MessagesBody, True),
    Operation(
        "post", "/v1/messages/count_tokens", "Count a conversation's tokens", ConversationBody
    ),
    Operation("post", "/v1/responses", "Answer the next turn", ResponseBody, True),
    Operation("post", "/v1/responses/input_tokens", "Count a turn's tokens", ResponseBody),
    Operation("get", "/v1/responses/{id}", "Show a kept response"),
    Operation("delete", "/v1/responses/{id}", "Forget a kept response"),
    Operation("get", "/v1/responses/{id}/input_items", "Show the input of a kept response"),
    Operation("post", "/v1/responses/{id}/cancel", "Refused: kept responses have ended"),
    Operation("get", "/v1/models", "List the models"),
    Operation("get", "/v1/models/{name}", "Show a model"),
    Operation("post", "/tokenize", "Turn text into tokens", TokenizeBody),
    Operation("post", "/detokenize", "Turn tokens into text", DetokenizeBody),
    Operation("get", "/tokenizer_info", "Show what there is to know of the tokenizer"),
    Operation("get", "/metrics", "Metrics for Prometheus"),
    Operation("get", "/livez", "Tell whether the process answers"),
    Operation("get", "/readyz", "Tell whether requests are answered"),
    Operation("get", "/healthz", "The same as /readyz"),
)


async def show_document(request: Request) -> JSONResponse:
    """Answer with the document."""
    return JSONResponse(document())


@functools.cache
def document() -> dict[str, Any]:
    """The document, in OpenAPI 3.1."""
    bodies = dict.fromkeys(one.body for one in OPERATIONS if one.body)
    _, schemas = models_json_schema(
        [(body, "validation") for body in bodies], ref_template=SCHEMAS + "{model}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for one in OPERATIONS:
        paths.setdefault(one.path, {})[one.method] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llm-serving-engine",
            "version": metadata.version("llm-serving-engine"),
            "description": "Paths under /v1 are answered without it, too.",
        },
        "paths": paths,
        "components": {"schemas": {**schemas["$defs"], "Error": _ERROR}},
    }


def _operation(one: Operation) -> dict[str, Any]:
    done: dict[str, Any] = {"application/json": {}}
    if one.streams:
        done["text/event-stream"] = {}
    failed = {"application/json": {"schema": {"$ref": SCHEMAS + "Error"}}}
    operation: dict[str, Any] = {
        "summary": one.summary,
        "responses": {
            "200": {"description": "The answer", "content": done},
            "default": {"description": "An error", "content": failed},
        },
    }
    if one.body:
        schema = {"$ref": SCHEMAS + one.body.__name__}
        content = {"application/json": {"schema": schema}}
        operation["requestBody"] = {"required": True, "content": content}
    if "{" in one.path:
        name = one.path.partition("{")[2].partition("}")[0]
        text = {"type": "string"}
        operation["parameters"] = [{"name": name, "in": "path", "required": True, "schema": text}]
    return operation


_TEXT = {"type": ["string", "null"]}
_ERROR = {
    "title": "Error",
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}}
            | {"param": _TEXT, "code": _TEXT},
        }
    },
}
