"""Errors as HTTP answers: the status, the body, and the headers that clients act on."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from llm_serving_engine.scheduler.errors import (
    Cancelled,
    DeadlinePassed,
    InvalidField,
    LimitReached,
    RequestError,
    RequestFailed,
    RunnerFailed,
    Unavailable,
    UnknownModel,
)
from llm_serving_engine.server.lives.errors import UnknownRequest
from llm_serving_engine.server.retry_delay import with_jitter
from llm_serving_engine.server.service.errors import INTERNAL_MESSAGE
from llm_serving_engine.server.service.fields import ContextExceeded

Headers = tuple[tuple[str, str], ...]

# Clients retry 5xx by themselves; this header tells them when it cannot help.
NEVER_RETRY: Headers = (("x-should-retry", "false"),)

_INVALID = "invalid_request_error"
_SERVER = "server_error"
_RATE = "rate_limit_error"


class HttpError(NamedTuple):
    """How a request that fails is answered.

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
    message = str(error)
    if isinstance(error, UnknownResponse):
        return _unknown_response(error)
    if isinstance(error, InvalidField):
        return _invalid_field(error, fields or {})
    if isinstance(error, BodyTooLarge):
        return HttpError(413, _INVALID, "body_too_large", message)
    if isinstance(error, BadBody):
        return HttpError(400, _INVALID, "invalid_value", message)
    if isinstance(error, UnknownModel):
        return HttpError(404, _INVALID, "model_not_found", message, "model")
    if isinstance(error, UnknownRequest):
        return HttpError(404, _INVALID, "request_not_found", message, "request_id")
    if isinstance(error, LimitReached):
        return _limit_reached(error)
    if isinstance(error, DeadlinePassed):
        return HttpError(504, "timeout_error", error.reason.lower(), message, headers=NEVER_RETRY)
    if isinstance(error, RunnerFailed):
        return HttpError(503, _SERVER, "runner_failed", message, headers=NEVER_RETRY)
    if isinstance(error, Unavailable):
        seconds = with_jitter(error.retry_after)
        return HttpError(503, _SERVER, "unavailable", message, headers=retry(seconds))
    if isinstance(error, RequestFailed):
        return HttpError(500, _SERVER, error.reason.lower(), message, headers=NEVER_RETRY)
    if isinstance(error, Cancelled):
        return HttpError(499, _INVALID, "cancelled", message)
    return HttpError(500, _SERVER, "internal", INTERNAL_MESSAGE)


def retry(seconds: float) -> Headers:
    """The headers that tell when to try again, for clients of both kinds."""
    return (
        ("retry-after", str(math.ceil(seconds))),
        ("retry-after-ms", str(math.ceil(seconds * 1000))),
    )


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


def _invalid_field(error: InvalidField, fields: Mapping[str, str]) -> HttpError:
    field = _field(error, fields)
    message = f"{field}: {error.description}"
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


def _unknown_response(error: UnknownResponse) -> HttpError:
    if error.field == "previous_response_id":
        return HttpError(400, _INVALID, "previous_response_not_found", str(error), error.field)
    return HttpError(404, _INVALID, "not_found", str(error), error.field)


def _limit_reached(error: LimitReached) -> HttpError:
    # Codex reads the delay from the text.
    seconds = with_jitter(error.retry_after)
    message = f"{error}; try again in {seconds:.1f}s"
    return HttpError(429, _RATE, "rate_limit_exceeded", message, headers=retry(seconds))
