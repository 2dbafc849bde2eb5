"""Why requests are refused, in words that can be counted."""

from __future__ import annotations

from llm_serving_engine.scheduler.errors import DeadlinePassed, LimitReached, RequestError


def refusal_reason(error: RequestError) -> str:
    """The limit that was reached, "deadline_unreachable", or else the error's label.

    There are only so many of them: callers cannot make any up.
    """
    if isinstance(error, LimitReached):
        return error.subject
    if isinstance(error, DeadlinePassed):
        return error.reason.lower()
    return error.label
