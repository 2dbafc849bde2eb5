"""Records of requests and phases. Times are in seconds of one monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

SHORT_ANSWER = "SHORT_ANSWER"
"""The error of an answer that ended well but had other than the planned tokens."""

DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
UNAVAILABLE = "UNAVAILABLE"
DEADLINE_UNREACHABLE = "DEADLINE_UNREACHABLE"


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
        token_ids: The output's; empty where the server does not tell them.
        prompt_tokens: None where the request did not come to its end.
        text: The output's.
        told_tokens: The output's, as the server counts them; None where it did not say.
        deadline: Seconds from its sending, after which the answer is of no use.
        reason: The server's word for the cause of the error.
        retry_after: Seconds after which the server wants to be asked again, where it said so.
    """

    label: str
    sent: float
    ended: float
    arrivals: tuple[Arrival, ...]
    error: str = ""
    finished: bool = False
    token_ids: tuple[int, ...] = ()
    prompt_tokens: PromptTokens | None = None
    text: str = ""
    told_tokens: int | None = None
    deadline: float | None = None
    reason: str = ""
    retry_after: float | None = None

    @property
    def tokens(self) -> int:
        """Of the output, as the server counts them where it says so."""
        if self.told_tokens is not None:
            return self.told_tokens
        return sum(arrival.tokens for arrival in self.arrivals)

    @property
    def in_time(self) -> bool:
        """Whether the whole answer came within the deadline, where there is one."""
        return self.finished and (self.deadline is None or self.ended - self.sent <= self.deadline)

    @property
    def refused(self) -> bool:
        """Whether the server would not take it: not because the time was over, and not later."""
        return (
            not self.arrivals
            and self.error in (RESOURCE_EXHAUSTED, UNAVAILABLE, DEADLINE_EXCEEDED)
            and (self.error != DEADLINE_EXCEEDED or self.reason == DEADLINE_UNREACHABLE)
        )

    @property
    def failed(self) -> bool:
        """Whether there was an unexpected error.

        A request with a deadline can be late, and can be refused because it would be late or
        because the queue is full.
        """
        expected = (DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED)
        return bool(self.error) and not (self.deadline is not None and self.error in expected)


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """One phase; `cpu_seconds` is what the load generator itself took."""

    name: str
    requests: tuple[Record, ...]
    cpu_seconds: float = 0.0
