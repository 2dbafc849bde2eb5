"""Placeholder characters for a chat template's input."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

_PRIVATE_FIRST, _PRIVATE_LAST = 0xF0000, 0x10FFFD
_PRIVATE = re.compile(f"[{chr(_PRIVATE_FIRST)}-{chr(_PRIVATE_LAST)}]")


class Placeholders:
    """Maps some characters to private-use characters that occur in none of the given texts.

    A template's functions take private-use characters for neither letters, nor
    digits, nor white space. Each replaces one character: lengths and positions
    stay the same.

    Attributes:
        table: The placeholder of each character.
        mark: One more private-use character, to mark a position.
    """

    def __init__(self, characters: Collection[str], texts: Collection[str]) -> None:
        """Choose placeholders for `characters` that occur in none of `texts`."""
        free = _unused(texts)
        self.mark = next(free)
        self.table = {character: next(free) for character in sorted(characters)}
        self._hide = str.maketrans(self.table)
        self._reveal = str.maketrans({there: here for here, there in self.table.items()})

    def hide(self, text: str) -> str:
        """Replace the characters by their placeholders."""
        return text.translate(self._hide)

    def reveal(self, text: str) -> str:
        """Replace the placeholders by their characters."""
        return text.translate(self._reveal)


def _unused(texts: Collection[str]) -> Iterator[str]:
    used = {character for text in texts for character in _PRIVATE.findall(text)}
    for code in range(_PRIVATE_FIRST, _PRIVATE_LAST + 1):
        # The last two code points of each plane are noncharacters.
        if code & 0xFFFF < 0xFFFE and chr(code) not in used:
            yield chr(code)


def strings(value: Any) -> Iterator[str]:
    """Yield all strings in a tree of dictionaries and lists, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield key
            yield from strings(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from strings(entry)


def depth(value: Any) -> int:
    """Return how deep dictionaries and lists are nested."""
    levels, level = 0, [value]
    while level := [one for one in level if isinstance(one, Mapping | list)]:
        levels += 1
        level = [
            entry for one in level for entry in (one.values() if isinstance(one, Mapping) else one)
        ]
    return levels


def replaced(value: Any, change: Callable[[str], str]) -> Any:
    """Return the same tree with `change` applied to every string, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): replaced(entry, change) for key, entry in value.items()}
    if isinstance(value, list):
        return [replaced(entry, change) for entry in value]
    return value
