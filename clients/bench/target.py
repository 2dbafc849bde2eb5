"""What load is put on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from llm_serving_engine.clients.bench.plan import PlannedRequest
from llm_serving_engine.clients.bench.record import PromptTokens

TokenIds = tuple[int, ...]
"""What one arrival brings."""


class TargetError(Exception):
    """A request failed; `code` is what failures are counted by."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Target(Protocol):
    """A server that streams."""

    def stream(self, request: PlannedRequest) -> AsyncGenerator[TokenIds | PromptTokens, None]:
        """Generate exactly `request.max_tokens` tokens.

        Yields the tokens of each arrival and, at the end, what is known of the
        prompt's. Closing the generator early ends the request. Raises TargetError.
        """
