"""Turns errors into HTTP responses: status, body, and the headers that clients read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from llm_serving_engine.scheduler.errors import InvalidField, LimitReached, RequestError
from llm_serving_engine.server.retry_delay import with_jitter
from llm_serving_engine.server.service.errors import INTERNAL_MESSAGE
from llm_serving_engine.server.service.fields import ContextExceeded

Headers = tuple[tuple[str, str], ...]

# Clients retry 429 and 5xx by themselves; this header tells them when they had better not:
# the request cannot succeed, or they have spent on it what time they had.
RETRY: Headers = (("x-should-retry", "true"),)
NEVER_RETRY: Headers = (("x-should-retry", "false"),)

_INVALID = "invalid_request_error"
_STATUSES = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
# By the labels of errors, where HTTP or its clients have words of their own.
_STATUSES_OF_LABELS = {"body_too_large": 413}
_CODES = {
    "bad_body": "invalid_value",
    "limit_reached": "rate_limit_exceeded",
    "unknown_model": "model_not_found",
    "unknown_request": "request_not_found",
}
_PARAMS = {"unknown_model": "model", "unknown_request": "request_id"}


class HttpError(NamedTuple):
    """The response to a failed request.

    Attributes:
        status: The HTTP status.
        type: The family of the error.
        code: The error itself; None where the family says enough.
        message: For the caller.
        param: The field that is wrong, if one is.
        headers: Beside the usual ones.
    """

    status: int
    type: str
    code: str | None
    message: str
    param: str | None = None
    headers: Headers = ()


class BadBody(RequestError):
    """The body of a request cannot be read as what it must be."""

    code = "INVALID_ARGUMENT"
    label = "bad_body"


class BodyTooLarge(RequestError):
    """The body of a request is larger than the configured limit."""

    code = "RESOURCE_EXHAUSTED"
    label = "body_too_large"


class UnknownResponse(InvalidField):
    """No response of that id is kept for the tenant; `field` says who asked for it."""

    label = "unknown_response"


def http_error(error: RequestError, fields: Mapping[str, str] | None = None) -> HttpError:
    """How a request's error is answered; see the table in docs/http.md.

    Args:
        error: The error.
        fields: An API's names for fields that OpenAI's chat API calls otherwise.
    """
    if isinstance(error, InvalidField):
        return _invalid_field(error, fields or {})
    status = _STATUSES_OF_LABELS.get(error.label) or _STATUSES[error.code]
    code = _CODES.get(error.label) or error.reason.lower() or error.label
    message = str(error) or INTERNAL_MESSAGE
    headers: Headers = ()
    if error.reason and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        headers = NEVER_RETRY
    elif error.retry_after:
        headers = RETRY
    if error.retry_after:
        # Also where clients are not to retry by themselves, for those who decide it.
        seconds = with_jitter(error.retry_after)
        headers = (
            *headers,
            ("retry-after", str(math.ceil(seconds))),
            ("retry-after-ms", str(math.ceil(seconds * 1000))),
        )
        if isinstance(error, LimitReached):
            # Codex reads the delay from the text.
            message = f"{message}; try again in {seconds:.1f}s"
    return HttpError(status, _type(status), code, message, _PARAMS.get(error.label), headers)


def openai_body(error: HttpError) -> dict[str, Any]:
    """The body of an error as OpenAI's clients read it."""
    fields = {"message": error.message, "type": error.type}
    return {"error": {**fields, "param": error.param, "code": error.code}}


def anthropic_body(error: HttpError) -> dict[str, Any]:
    """The body of an error as Anthropic's clients read it."""
    kind = _ANTHROPIC_TYPES.get(error.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}

# The service's names of fields are the wire's of gRPC; here they are OpenAI's.
_RENAMED = (
    (re.compile(r"^sampling\."), ""),
    (re.compile(r"^chat\.messages"), "messages"),
    (re.compile(r"^chat\."), ""),
    (re.compile(r"^chat$"), "messages"),
    (re.compile(r"^prompt_tokens(\.ids)?$"), "prompt"),
)


def _type(status: int) -> str:
    server = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else _INVALID
    return {429: "rate_limit_error", 504: "timeout_error"}.get(status, server)


def _invalid_field(error: InvalidField, fields: Mapping[str, str]) -> HttpError:
    field = _field(error, fields)
    message = f"{field}: {error.description}"
    if isinstance(error, UnknownResponse):
        asked = error.field == "previous_response_id"
        status, code = (400, "previous_response_not_found") if asked else (404, "not_found")
        return HttpError(status, _INVALID, code, message, field)
    if isinstance(error, ContextExceeded):
        # Codex knows it by the code, and LiteLLM by these words.
        message = f"This model's maximum context length is {error.context} tokens. {message}"
        return HttpError(400, _INVALID, "context_length_exceeded", message, field)
    return HttpError(400, _INVALID, "invalid_value", message, field)


def _field(error: InvalidField, fields: Mapping[str, str]) -> str:
    """The API's own name of the field."""
    field = error.field
    for pattern, replacement in _RENAMED:
        field = pattern.sub(replacement, field)
    name, *rest = re.split(r"(?=[.\[])", field)
    return "".join((fields.get(name, name), *rest))
