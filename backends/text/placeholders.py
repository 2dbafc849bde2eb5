"""Characters that stand for others while a chat template runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

_PRIVATE_FIRST, _PRIVATE_LAST = 0xF0000, 0x10FFFD
_PRIVATE = re.compile(f"[{chr(_PRIVATE_FIRST)}-{chr(_PRIVATE_LAST)}]")


class Placeholders:
    """A private character for each of some characters, and one that marks a place.

    The private characters occur in none of the texts at hand. They are no
    letters, no digits, and no white space to any function of a template, and
    each stands for one character: lengths and positions stay the same.

    Attributes:
        table: By each character, its stand-in.
        mark: A character that stands for none.
    """

    def __init__(self, characters: Collection[str], texts: Collection[str]) -> None:
        """Choose stand-ins for `characters` that occur in none of `texts`."""
        free = _unused(texts)
        self.mark = next(free)
        self.table = {character: next(free) for character in sorted(characters)}
        self._hide = str.maketrans(self.table)
        self._reveal = str.maketrans({there: here for here, there in self.table.items()})

    def hide(self, text: str) -> str:
        """Put the stand-ins in the place of the characters."""
        return text.translate(self._hide)

    def reveal(self, text: str) -> str:
        """Put the characters back."""
        return text.translate(self._reveal)


def _unused(texts: Collection[str]) -> Iterator[str]:
    used = {character for text in texts for character in _PRIVATE.findall(text)}
    for code in range(_PRIVATE_FIRST, _PRIVATE_LAST + 1):
        # The last two of each plane are no characters.
        if code & 0xFFFF < 0xFFFE and chr(code) not in used:
            yield chr(code)


def strings(value: Any) -> Iterator[str]:
    """All texts in a tree of dictionaries and lists, their keys included."""
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
    """How many dictionaries and lists lie inside each other, at the deepest place."""
    levels, level = 0, [value]
    while level := [one for one in level if isinstance(one, Mapping | list)]:
        levels += 1
        level = [
            entry for one in level for entry in (one.values() if isinstance(one, Mapping) else one)
        ]
    return levels


def replaced(value: Any, change: Callable[[str], str]) -> Any:
    """The same tree with every text changed, their keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): replaced(entry, change) for key, entry in value.items()}
    if isinstance(value, list):
        return [replaced(entry, change) for entry in value]
    return value
