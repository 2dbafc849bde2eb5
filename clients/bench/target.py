"""What load is put on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol


class TargetError(Exception):
    """A request failed; `code` is what failures are counted by."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Target(Protocol):
    """A server that streams."""

    def stream(self, prompt: str, max_tokens: int) -> AsyncGenerator[int, None]:
        """Generate exactly `max_tokens` tokens, greedily.

        Yields the number of tokens that each arrival brings. Closing the
        generator early ends the request. Raises TargetError.
        """
