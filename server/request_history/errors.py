"""Errors of queries for a request's history."""

from __future__ import annotations

from llm_serving_engine.scheduler.errors import RequestError


class UnknownRequest(RequestError):
    """No request in the history has this id."""

    code = "NOT_FOUND"
    label = "unknown_request"
