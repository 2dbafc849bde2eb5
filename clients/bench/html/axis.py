"""Maps values to pixels, and chooses round values for labels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

LABELS_MAX = 6


@dataclass(frozen=True, slots=True)
class Axis:
    """`low` lies at 0 and `high` at `length`; equal ratios are equal lengths where `log`.

    Values beyond the ends are placed at the ends.
    """

    low: float
    high: float
    length: float
    log: bool = False

    def place(self, value: float) -> float:
        """Pixels from the axis's start."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, self.low))
        return min(max((value - low) / (high - low), 0.0), 1.0) * self.length

    def ticks(self) -> list[float]:
        """Round values between the ends, at least one where the axis spans a decade."""
        return _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high)


def from_zero(values: Iterable[float], length: float) -> Axis:
    """Of values that are not negative; a little longer than the greatest."""
    return Axis(0.0, max(values, default=0.0) * 1.05 or 1.0, length)


def by_ratios(values: Iterable[float], length: float) -> Axis:
    """Of values above 0, a little longer than they are spread at both ends."""
    known = [value for value in values if value > 0] or [1.0]
    return Axis(min(known) / 1.15, max(known) * 1.15, length, log=True)


def number(value: float) -> str:
    """Such as "0.05", "12", "3,000"."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / (LABELS_MAX - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """As many to a decade as leave room for the labels."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for factors in ((1, 1.2, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [
            factor * 10.0**power
            for power in powers
            for factor in factors
            if low <= factor * 10.0**power <= high
        ]
        if len(found) <= LABELS_MAX:
            break
    return found[:: math.ceil(len(found) / LABELS_MAX) or 1]
