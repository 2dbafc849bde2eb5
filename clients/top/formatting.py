"""Formats numbers, times, memory, and bars compactly for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

_LEVELS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def seconds(value: float) -> str:
    """Such as "3.1 ms", "45 ms", "1.25 s", "12.5 s", "95 s"."""
    if value < 0.00995:
        return f"{value * 1000:.1f} ms"
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    return (
        f"{value:.2f} s"
        if value < 9.995
        else f"{value:.1f} s"
        if value < 99.95
        else f"{value:.0f} s"
    )


def memory(count: float) -> str:
    """Such as "0 B", "3.5 MiB", "512 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def counted(number: int, one: str, several: str | None = None) -> str:
    """Such as "1 row", "8 rows"."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def plain(name: str) -> str:
    """A name from elsewhere, with nothing in it that a terminal obeys."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name
    )


def bar(value: float, full: float, width: int) -> str:
    """A bar of at most `width` columns; of at least a sliver where there is anything."""
    if value <= 0 or full <= 0 or width <= 0:
        return ""
    eighths = max(round(min(value / full, 1.0) * width * 8), 1)
    return _EIGHTHS[8] * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def sparkline(values: Iterable[float], width: int) -> str:
    """The last `width` values as a curve from 0 to the greatest of them."""
    shown = list(values)[-width:] if width > 0 else []
    top = max(shown, default=0.0)
    if top <= 0:
        return _LEVELS[0] * len(shown)
    return "".join(_LEVELS[round(value / top * (len(_LEVELS) - 1))] for value in shown)
