"""Errors of requests for something that this server does not have."""

from __future__ import annotations

from llm_serving_engine.scheduler.errors import RequestError


class UnknownModel(RequestError):
    """No model is called `name`; `known` are the names there are."""

    code = "NOT_FOUND"
    label = "unknown_model"
    reason = "UNKNOWN_MODEL"

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        there = ", ".join(known) or "none"
        super().__init__(f"no model {name!r}; this server has: {there}")
        self.name = name
        self.known = known


class UnknownRequest(RequestError):
    """No request in the history has this id."""

    code = "NOT_FOUND"
    label = "unknown_request"
