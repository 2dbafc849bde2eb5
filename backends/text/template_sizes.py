"""Computes the size of a chat template's values before they are made.

Most operations make values as large as what they are given. Those that can make
much of little are here by name, those of Jinja's filters and of Python's texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

ENTRY_SIZE = 64
"""What an entry of a list or a mapping counts, in characters."""
_WIDTH = re.compile(r"\d+")
# Fields of a format whose width is an argument.
_OPEN_WIDTH = re.compile(r"%[-+ #0\d.]*\*|\{[^{}]+\{")

Estimate = Callable[..., int]


class TooLarge(Exception):
    """A value is larger than it may be, or its size cannot be told."""

    def __str__(self) -> str:
        return "it makes a value that is too large"


def weight(value: Any, size_max: int) -> int:
    """Characters of a value as text, about. Raises TooLarge above `size_max`."""
    left = size_max
    parts = [iter((value,))]
    while parts:
        for part in parts[-1]:
            left -= len(part) if isinstance(part, str) else ENTRY_SIZE
            if left < 0:
                raise TooLarge
            if isinstance(part, Mapping):
                parts.append(iter([one for item in part.items() for one in item]))
                break
            if isinstance(part, list | tuple):
                parts.append(iter(part))
                break
        else:
            parts.pop()
    return size_max - left


def size(value: Any) -> int:
    """Characters of a text, or entries of a list."""
    return len(value) if isinstance(value, str | list | tuple) else 0


def product(left: Any, right: Any) -> int:
    """Of `left * right`."""
    if isinstance(left, int) and isinstance(right, int):
        return (left.bit_length() + right.bit_length()) // 8
    return max(size(left) * _number(right), size(right) * _number(left))


def power(base: Any, exponent: Any) -> int:
    """Of `base ** exponent`."""
    return base.bit_length() * exponent // 8 if isinstance(base, int) else 0


def formatted(layout: Any, values: Iterable[Any], size_max: int) -> int:
    """Of a text with fields, filled with values. Raises TooLarge where a width is one of them."""
    text = str(layout)
    if _OPEN_WIDTH.search(text):
        raise TooLarge
    widths = sum(int(found[:20]) for found in _WIDTH.findall(text))
    longest = max((weight(value, size_max) for value in values), default=0)
    return len(text) + widths + (text.count("%") + text.count("{")) * longest


def joined(values: Iterable[Any], separator: Any, size_max: int) -> int:
    """Of texts with a separator between them."""
    texts = list(values)
    return weight(texts, size_max) + len(texts) * len(str(separator))


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _replaced(text: Any, old: Any, new: Any, *_: Any, **__: Any) -> int:
    return len(str(text)) + str(text).count(str(old)) * len(str(new))


def _padded(text: Any, width: Any = 80, *_: Any, **__: Any) -> int:
    return max(size(text), _number(width))


def _indented(text: Any, width: Any = 4, *_: Any, **__: Any) -> int:
    step = _number(width) if isinstance(width, int) else len(str(width))
    return len(str(text)) + (str(text).count("\n") + 1) * step


def _wrapped(
    text: Any, width: Any = 79, break_long: Any = True, wrapstring: Any = None, *_: Any, **__: Any
) -> int:
    return len(str(text)) * (1 + len(wrapstring or "\n"))


def _expanded(text: Any, tabsize: Any = 8, *_: Any, **__: Any) -> int:
    return len(str(text)) + str(text).count("\t") * _number(tabsize)


def _translated(text: Any, table: Any, *_: Any, **__: Any) -> int:
    values = table.values() if isinstance(table, Mapping) else ()
    return len(str(text)) * max((size(value) for value in values), default=1)


def _counted(value: Any, count: Any, *_: Any, **__: Any) -> int:
    return size(value) + _number(count)


TEXT_METHODS: Mapping[str, Estimate] = {
    "replace": _replaced,
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _padded),
    "expandtabs": _expanded,
    "translate": _translated,
}
"""By a method's name: its text and its arguments."""

FILTERS: Mapping[str, Estimate] = {
    "replace": _replaced,
    "center": _padded,
    "indent": _indented,
    "wordwrap": _wrapped,
    **dict.fromkeys(("batch", "slice"), _counted),
}
"""By a filter's name: its value and its arguments."""
