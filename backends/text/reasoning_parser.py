"""Separates reasoning and answer in streamed text."""

from __future__ import annotations

import enum
from typing import NamedTuple


class _State(enum.Enum):
    """Where in the output the text stands.

    Reasoning comes first or not at all. White space around it belongs to the
    markers; that of an answer without reasoning is the answer's.
    """

    BEGIN = enum.auto()
    REASONING = enum.auto()
    GAP = enum.auto()
    ANSWER = enum.auto()


class Parts(NamedTuple):
    """More text of both kinds."""

    reasoning: str
    text: str


class ReasoningParser:
    """Splits output at its markers. However the text is cut, the result is the same."""

    def __init__(self, begin: str, end: str, plain: str = "", *, inside: bool = False) -> None:
        """Begin an output.

        Args:
            begin: Opens the reasoning.
            end: Closes it.
            plain: Opens an answer without reasoning; may be empty.
            inside: Whether the prompt has opened the reasoning.
        """
        self._end = end
        self._openings = {begin: _State.REASONING}
        if plain and not inside:
            self._openings[plain] = _State.ANSWER
        self._otherwise = _State.REASONING if inside else _State.ANSWER
        self._state = _State.BEGIN
        self._reasoned = False
        self._held = ""

    @property
    def reasoning(self) -> bool:
        """Whether the last text was part of the reasoning."""
        return (self._otherwise if self._state is _State.BEGIN else self._state) is _State.REASONING

    def feed(self, text: str) -> Parts:
        """Add text; return the part that cannot belong to a marker."""
        if self._state is _State.ANSWER:
            return Parts("", text)
        self._held += text
        reasoning = ""
        if self._state is _State.BEGIN:
            self._open()
        if self._state is _State.REASONING:
            reasoning = self._reason()
        if self._state is _State.GAP:
            self._held = self._held.lstrip()
            if self._held:
                self._state = _State.ANSWER
        if self._state is _State.ANSWER:
            return Parts(reasoning, self._take(len(self._held)))
        return Parts(reasoning, "")

    def finish(self) -> Parts:
        """End the text; return the held-back part."""
        held = self._take(len(self._held))
        return Parts(held, "") if self.reasoning else Parts("", held)

    def _open(self) -> None:
        text = self._held.lstrip()
        for marker, state in self._openings.items():
            if text.startswith(marker):
                self._held, self._state = text[len(marker) :], state
                return
        if not any(marker.startswith(text) for marker in self._openings):
            self._state = self._otherwise

    def _reason(self) -> str:
        if not self._reasoned:
            self._held = self._held.lstrip()
        index = self._held.find(self._end)
        if index >= 0:
            text = self._take(index).rstrip()
            self._held = self._held[len(self._end) :]
            self._state = _State.GAP
        else:
            whole = len(self._held) - self._partial_end()
            text = self._take(len(self._held[:whole].rstrip()))
        self._reasoned = self._reasoned or text != ""
        return text

    def _partial_end(self) -> int:
        """Characters at the end of the text that the closing marker may begin with."""
        longest = min(len(self._held), len(self._end) - 1)
        return next(
            (size for size in range(longest, 0, -1) if self._held.endswith(self._end[:size])), 0
        )

    def _take(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text
