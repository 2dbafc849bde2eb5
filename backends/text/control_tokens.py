"""The control tokens that a text can name, such as "<|im_start|>"."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping

_SPACE = " \t\n\v\f\r"


class ControlTokens:
    """Finds the names of control tokens in text. Immutable.

    Where several names begin at the same character, the longest counts.

    Attributes:
        edges: The characters that names begin or end with. A text without
            them holds no name, nor a part that text around it could complete.
    """

    def __init__(
        self,
        tokens: Mapping[str, int],
        *,
        strips_left: Collection[int] = (),
        strips_right: Collection[int] = (),
    ) -> None:
        """Prepare to find some tokens.

        Args:
            tokens: Token ids by name; empty names are left out.
            strips_left: Tokens that take the white space before them.
            strips_right: Tokens that take the white space after them.
        """
        self._tokens = {name: token for name, token in tokens.items() if name}
        self._strips_left = frozenset(strips_left)
        self._strips_right = frozenset(strips_right)
        self._pattern = _pattern(self._tokens)
        self.edges = frozenset(edge for name in self._tokens for edge in (name[0], name[-1]))

    def get(self, name: str) -> int | None:
        """The token of that name, or None."""
        return self._tokens.get(name)

    def named(self, text: str) -> list[int]:
        """The tokens that `text` names, in order."""
        return [piece for piece in self.split(text) if isinstance(piece, int)]

    def split(self, text: str) -> list[str | int]:
        """Cut `text` at the names in it: tokens, and the texts between them, none empty."""
        pieces: list[str | int] = []
        start, strip = 0, False

        def add(between: str) -> None:
            between = between.lstrip(_SPACE) if strip else between
            if between:
                pieces.append(between)

        for found in self._pattern.finditer(text) if self._pattern else ():
            token = self._tokens[found[0]]
            before = text[start : found.start()]
            add(before.rstrip(_SPACE) if token in self._strips_left else before)
            pieces.append(token)
            start, strip = found.end(), token in self._strips_right
        add(text[start:])
        return pieces

    def disguise(self, text: str, placeholders: Mapping[str, str]) -> str:
        """Replace the first character of every name in `text`, until there is none.

        Args:
            text: Any text.
            placeholders: By each of `edges`, a character that is none of them.
        """
        if self._pattern is None:
            return text
        # A name can begin inside of another one: it is found in the next round.
        while self._pattern.search(text):
            text = self._pattern.sub(lambda found: placeholders[found[0][0]] + found[0][1:], text)
        return text


def joined_tokens(pieces: Iterable[str | int], encode: Callable[[str], list[int]]) -> list[int]:
    """The tokens of what `ControlTokens.split` gives.

    Args:
        pieces: Tokens, and the texts between them.
        encode: Gives the tokens of a text, and no others.
    """
    tokens: list[int] = []
    for piece in pieces:
        tokens += [piece] if isinstance(piece, int) else encode(piece)
    return tokens


def _pattern(names: Collection[str]) -> re.Pattern[str] | None:
    if not names:
        return None
    try:
        return re.compile(_branches(sorted(names)))
    except RecursionError:
        # Thousands of names, each the beginning of the next: no real vocabulary has them.
        return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))


def _branches(names: list[str]) -> str:
    """A pattern for sorted names that reads each character of a text only once.

    Plain alternatives would be tried one after the other at each "<|": a
    vocabulary can have thousands of control tokens.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name[:1], []).append(name)
    optional = "" in groups
    branches = []
    for first, group in groups.items():
        if first:
            length = _common_prefix(group[0], group[-1])
            rest = _branches([name[length:] for name in group]) if len(group) > 1 else ""
            branches.append(re.escape(group[0][:length]) + rest)
    if not optional and len(branches) == 1:
        return branches[0]
    return f"(?:{'|'.join(branches)}){'?' if optional else ''}"


def _common_prefix(first: str, last: str) -> int:
    """The length of what two texts begin with, at least 1; all between them in order share it."""
    length = 1
    while first[length : length + 1] == last[length : length + 1] != "":
        length += 1
    return length
