"""Reads the sampling that a model file recommends: `general.sampling.*`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class _Range(NamedTuple):
    """A key of the file, and the values that it can have."""

    key: str
    low: float
    high: float
    open_low: bool = False

    def holds(self, value: float) -> bool:
        return (self.low < value if self.open_low else self.low <= value) and value <= self.high


# By the names of `scheduler.request.Sampling`.
_RANGES = {
    "temperature": _Range("temp", 0, 100),
    "top_k": _Range("top_k", 0, 2**31 - 1),
    "top_p": _Range("top_p", 0, 1, open_low=True),
    "min_p": _Range("min_p", 0, 1),
    "repetition_penalty": _Range("penalty_repeat", 0, 10, open_low=True),
}
# Of a 32-bit float, as files hold them: 0.6 is not to become 0.6000000238.
_DIGITS = 7


def recommended_sampling(metadata: Mapping[str, object]) -> dict[str, float]:
    """Return the recommended sampling, by the names of `Sampling`.

    Values that are out of range, or no numbers, are left out. So are samplers
    that this server does not have, such as mirostat.
    """
    found: dict[str, float] = {}
    for name, valid in _RANGES.items():
        value = metadata.get(f"general.sampling.{valid.key}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if valid.holds(value):
            found[name] = int(value) if name == "top_k" else float(f"{value:.{_DIGITS}g}")
    return found
