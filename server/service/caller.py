"""The caller of a call: its transport's identity, deadline, and attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from llm_serving_engine.server.telemetry.attributes import Value


def no_deadline() -> float | None:
    """The time that remains to a caller without a deadline."""
    return None


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a call, with its deadline.

    Attributes:
        method: What was called: `package.Service/Method`, or `POST /v1/completions`.
            Names the span and stands in the log line, so callers cannot choose it freely.
        tenant: The tenant; empty if none is named.
        remaining: Seconds until the deadline, asked at any time; None without one.
        metadata: The headers, by lower-case names: they may hold a trace context.
        attributes: What the span says of the transport.
    """

    method: str
    tenant: str = ""
    remaining: Callable[[], float | None] = no_deadline
    metadata: Iterable[tuple[str, str | bytes]] = ()
    attributes: Mapping[str, Value] = field(default_factory=dict)
