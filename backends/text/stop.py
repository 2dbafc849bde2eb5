"""Stop sequences in text that comes in pieces."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class _Node:
    """A prefix of some stop sequences: a state of an Aho-Corasick automaton.

    Attributes:
        depth: The prefix's length.
        edges: By the next character, the longer prefix.
        fallback: The longest proper suffix of this prefix that is a prefix too.
        stop: The longest stop sequence that ends here.
    """

    depth: int = 0
    edges: dict[str, _Node] = field(default_factory=dict)
    fallback: _Node | None = None
    stop: str | None = None


class StopMatcher:
    """Lets text through up to the first stop sequence, and never a part of that.

    The first stop sequence is the one that is complete first; of several that
    end at the same character, the longest. However the text is cut into
    pieces, the result is the same. Each character is looked at once.

    Attributes:
        matched: The stop sequence that was found, or None.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Prepare to find any of `stops`. Raises ValueError where one is empty."""
        self.matched: str | None = None
        self._root = _automaton(stops)
        self._node = self._root
        self._held = ""

    def feed(self, text: str) -> str:
        """Take more text; give what cannot be a part of a stop sequence any more.

        After a match nothing more comes.
        """
        if self.matched is not None:
            return ""
        if not self._root.edges:
            return text
        node = self._node
        text = self._held + text
        for index in range(len(self._held), len(text)):
            node = _advance(node, text[index])
            if node.stop is not None:
                self.matched = node.stop
                self._held = ""
                return text[: index + 1 - len(node.stop)]
        self._node = node
        released = len(text) - node.depth
        self._held = text[released:]
        return text[:released]

    def flush(self) -> str:
        """The end of the text: what was held back, as no stop sequence came of it."""
        held, self._held = self._held, ""
        self._node = self._root
        return held


def _advance(node: _Node, character: str) -> _Node:
    """The longest prefix of a stop sequence that ends with `character`."""
    while True:
        following = node.edges.get(character)
        if following is not None:
            return following
        if node.fallback is None:
            return node
        node = node.fallback


def _automaton(stops: Sequence[str]) -> _Node:
    root = _Node()
    for stop in stops:
        if not stop:
            raise ValueError("a stop sequence is empty")
        node = root
        for character in stop:
            node = node.edges.setdefault(character, _Node(node.depth + 1))
        node.stop = stop
    # Breadth first: a fallback is shorter, so it is complete before it is needed.
    waiting = deque([root])
    while waiting:
        node = waiting.popleft()
        for character, child in node.edges.items():
            child.fallback = root if node.fallback is None else _advance(node.fallback, character)
            child.stop = child.stop or child.fallback.stop
            waiting.append(child)
    return root
