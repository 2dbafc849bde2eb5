"""What to send, and when. Pure data: it can be printed, compared, and made by a formula."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gate:
    """Open once every request of the phase labelled so has that many tokens, or has ended."""

    label: str
    tokens: int


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request.

    Attributes:
        prompt: The text to continue.
        max_tokens: The tokens to produce, exactly.
        label: What gates and reports call it.
        at: Not before this many seconds from the phase's start.
        after: Not before this gate is open.
        until: Left, as by a user who has read enough, when this gate is open.
    """

    prompt: str
    max_tokens: int
    label: str = ""
    at: float = 0.0
    after: Gate | None = None
    until: Gate | None = None


Lane = tuple[PlannedRequest, ...]
"""What one client sends, one request after the other."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Lanes that run side by side. Phases of one name are repetitions of a measurement."""

    name: str
    lanes: tuple[Lane, ...]

    @property
    def requests(self) -> int:
        """How many there are."""
        return sum(map(len, self.lanes))


Plan = tuple[Phase, ...]
"""Phases, to be run one after the other."""
