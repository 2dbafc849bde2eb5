"""Durations in messages, written for people."""

from __future__ import annotations

_UNITS = ((3600.0, "h"), (60.0, "min"))


def duration(seconds: float) -> str:
    """Return a duration such as "45 ms", "1.25 s", "30 s", "5 min", or "2 h"."""
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            count = seconds / size
            return f"{count:,.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"
    if seconds >= 0.9995:
        return f"{seconds:.3g} s"
    milliseconds = seconds * 1000
    if milliseconds >= 0.1:
        return f"{milliseconds:.3g} ms"
    return "less than 0.1 ms" if seconds > 0 else "0 s"
