"""Errors of asking for what became of a request."""

from __future__ import annotations

from llm_serving_engine.scheduler.errors import RequestError


class UnknownRequest(RequestError):
    """None of the last requests has that id."""

    code = "NOT_FOUND"
    label = "unknown_request"
