"""Finds stop sequences in streamed text."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

ROOT = 0


class StopMatcher:
    """Lets text through up to the first stop sequence, and never a part of that.

    The first stop sequence is the one that is complete first; of several that
    end at the same character, the longest. However the text is cut into
    pieces, the result is the same. Each character is looked at once.

    Attributes:
        matched: The stop sequence that was found, or None.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Prepare to find any of `stops`. Raises ValueError if one is empty."""
        self.matched: str | None = None
        self._automaton = _Automaton(stops)
        self._node = ROOT
        self._held = ""

    def feed(self, text: str) -> str:
        """Add text; return the part that cannot belong to a stop sequence.

        After a match nothing more comes.
        """
        if self.matched is not None:
            return ""
        automaton = self._automaton
        if not automaton.edges[ROOT]:
            return text
        node = self._node
        text = self._held + text
        for index in range(len(self._held), len(text)):
            node = automaton.advance(node, text[index])
            if stop := automaton.stops[node]:
                self.matched = stop
                self._held = ""
                return text[: index + 1 - len(stop)]
        self._node = node
        released = len(text) - automaton.depths[node]
        self._held = text[released:]
        return text[:released]

    def flush(self) -> str:
        """End the text; return the held-back part."""
        held, self._held = self._held, ""
        self._node = ROOT
        return held


class _Automaton:
    """The prefixes of some stop sequences, by number; the empty one is ROOT.

    Numbers and not objects: those would refer to each other in circles, and a
    long stop sequence would be a thousand of them for the garbage collector.

    Attributes:
        edges: Of each prefix, by the character that follows, the longer prefix.
        fallbacks: Of each, the longest other prefix that it ends with.
        stops: Of each, the longest stop sequence that it ends with, or "".
        depths: The length of each.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.edges: list[dict[str, int]] = [{}]
        self.fallbacks = [ROOT]
        self.stops = [""]
        self.depths = [0]
        for stop in stops:
            if not stop:
                raise ValueError("a stop sequence is empty")
            node = ROOT
            for character in stop:
                node = self.edges[node].get(character) or self._add(node, character)
            self.stops[node] = stop
        # Breadth first: a fallback is shorter, so it is complete before it is needed.
        waiting = deque(self.edges[ROOT].values())
        while waiting:
            node = waiting.popleft()
            for character, child in self.edges[node].items():
                fallback = self.advance(self.fallbacks[node], character)
                self.fallbacks[child] = fallback
                self.stops[child] = self.stops[child] or self.stops[fallback]
                waiting.append(child)

    def advance(self, node: int, character: str) -> int:
        """The longest prefix that ends a text which ended with `node`, and a character more."""
        while True:
            following = self.edges[node].get(character)
            if following is not None:
                return following
            if node == ROOT:
                return ROOT
            node = self.fallbacks[node]

    def _add(self, node: int, character: str) -> int:
        child = self.edges[node][character] = len(self.edges)
        self.edges.append({})
        self.fallbacks.append(ROOT)
        self.stops.append("")
        self.depths.append(self.depths[node] + 1)
        return child
