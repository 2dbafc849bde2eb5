"""What was seen of a request and of a phase. Times are in seconds of one monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

SHORT_ANSWER = "SHORT_ANSWER"
"""The error of an answer that ended well but had other than the planned tokens."""


class Arrival(NamedTuple):
    """Tokens that came together."""

    time: float
    tokens: int


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Tokens of prompts, and how many of them were found in the server's cache."""

    total: int
    cached: int


@dataclass(frozen=True, slots=True)
class Record:
    """One request.

    Attributes:
        label: The planned request's.
        sent: When it was sent.
        ended: When it ended, however.
        arrivals: Its output, oldest first.
        error: A gRPC code's name or SHORT_ANSWER; empty where there was none.
        finished: Whether the whole answer came.
        token_ids: The output's.
        prompt_tokens: None where the request did not come to its end.
    """

    label: str
    sent: float
    ended: float
    arrivals: tuple[Arrival, ...]
    error: str = ""
    finished: bool = False
    token_ids: tuple[int, ...] = ()
    prompt_tokens: PromptTokens | None = None


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """One phase; `cpu_seconds` is what the load generator itself took."""

    name: str
    requests: tuple[Record, ...]
    cpu_seconds: float = 0.0
