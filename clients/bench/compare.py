"""Compares two servers by the ratios of alternating measurements. Pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llm_serving_engine.clients.bench.figures import TIME, Figure, Figures
from llm_serving_engine.clients.bench.record import PhaseRecord

COLUMNS = ("phase", "figure", "unit", "this", "other", "ratio", "spread", "pairs", "better is")


@dataclass(frozen=True, slots=True)
class Comparison:
    """A figure of both servers, round by round.

    Attributes:
        phase: The phases' name.
        figure: The figure's name.
        unit: Of the values.
        more_is_better: Whether a ratio above 1 speaks for this server.
        pairs: This server's value and the other's, of each round in which both have one.
        missing: Rounds in which one of them has none.
    """

    phase: str
    figure: str
    unit: str
    more_is_better: bool
    pairs: tuple[tuple[float, float], ...]
    missing: int = 0

    @property
    def ratios(self) -> tuple[float, ...]:
        """Of this server's values by the other's, of each pair whose other is not zero."""
        return tuple(this / other for this, other in self.pairs if other)

    @property
    def ratio(self) -> float | None:
        """The median of the ratios."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def this(self) -> float | None:
        """The median of this server's values."""
        return statistics.median(pair[0] for pair in self.pairs) if self.pairs else None

    @property
    def other(self) -> float | None:
        """The median of the other's."""
        return statistics.median(pair[1] for pair in self.pairs) if self.pairs else None


def compare(
    this: Sequence[PhaseRecord],
    other: Sequence[PhaseRecord],
    figures: Callable[[PhaseRecord], Figures],
) -> tuple[Comparison, ...]:
    """Pair the rounds of both servers, which are those of one plan, in its order."""
    found: dict[tuple[str, str], list[tuple[Figure, Figure]]] = {}
    for phase, name, pair in _pairs(this, other, figures):
        found.setdefault((phase, name), []).append(pair)
    return tuple(_comparison(phase, pairs) for (phase, _), pairs in found.items())


def _pairs(
    this: Sequence[PhaseRecord],
    other: Sequence[PhaseRecord],
    figures: Callable[[PhaseRecord], Figures],
) -> Iterator[tuple[str, str, tuple[Figure, Figure]]]:
    for ours, theirs in zip(this, other, strict=True):
        for pair in zip(figures(ours), figures(theirs), strict=True):
            yield ours.name, pair[0].name, pair


def _comparison(phase: str, found: Sequence[tuple[Figure, Figure]]) -> Comparison:
    first = found[0][0]
    pairs = [
        (this.value, other.value)
        for this, other in found
        if this.value is not None and other.value is not None
    ]
    return Comparison(
        phase=phase,
        figure=first.name,
        unit=first.unit,
        more_is_better=first.more_is_better,
        pairs=tuple(pairs),
        missing=len(found) - len(pairs),
    )


def row(one: Comparison) -> tuple[str, ...]:
    """In the order of COLUMNS."""
    ratios = one.ratios
    return (
        one.phase,
        one.figure,
        "ms" if one.unit == TIME else one.unit,
        _value(one.this, one.unit),
        _value(one.other, one.unit),
        "-" if one.ratio is None else f"{one.ratio:.2f}",
        f"{min(ratios):.2f} .. {max(ratios):.2f}" if ratios else "-",
        f"{len(ratios)}" + (f" of {len(one.pairs) + one.missing}" if one.missing else ""),
        "more" if one.more_is_better else "less",
    )


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return (
        f"{value * 1000:.1f}" if unit == TIME else f"{value:.2f}" if value < 10 else f"{value:.1f}"
    )
