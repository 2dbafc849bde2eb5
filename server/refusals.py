"""Derives the metric label of a refusal."""

from __future__ import annotations

from llm_serving_engine.scheduler.errors import DeadlinePassed, LimitReached, RequestError

# HTTP connections and requests that a limit of the listener refuses.
MALFORMED = "malformed"
HEADER_TIMEOUT = "header_timeout"
HEADER_SIZE = "header_size"
BODY_TIMEOUT = "body_timeout"
BODIES = "bodies"
CONNECTIONS = "connections"
WRITE_TIMEOUT = "write_timeout"
# Requests that no endpoint sees.
FORBIDDEN_HOST = "forbidden_host"
UNKNOWN_PATH = "unknown_path"
METHOD = "method"
HTTP_REFUSALS = (
    *(MALFORMED, HEADER_TIMEOUT, HEADER_SIZE, BODY_TIMEOUT, BODIES),
    *(CONNECTIONS, WRITE_TIMEOUT),
    *(FORBIDDEN_HOST, UNKNOWN_PATH, METHOD),
)


def refusal_reason(error: RequestError) -> str:
    """Return the limit that was reached, "deadline_unreachable", or the error's label.

    There are only so many of them: callers cannot make any up.
    """
    if isinstance(error, LimitReached):
        return error.subject
    if isinstance(error, DeadlinePassed):
        return error.reason.lower()
    return error.label
