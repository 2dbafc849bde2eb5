"""Draws each measurement: distributions of times, and output over time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from llm_serving_engine.clients.bench import measures
from llm_serving_engine.clients.bench.html.axis import Axis, by_ratios, from_zero
from llm_serving_engine.clients.bench.html.chart import (
    INNER_HEIGHT,
    INNER_WIDTH,
    Chart,
    Point,
    Series,
)
from llm_serving_engine.clients.bench.record import PhaseRecord, Record

POINTS_MAX = 300  # of a distribution: more cannot be seen
BINS = 60  # of time
BIN_SECONDS_MIN = 0.1

Phases = Sequence[PhaseRecord]


def charts(servers: Sequence[Phases], names: Sequence[str]) -> tuple[Chart, ...]:
    """Of the repetitions of one measurement on each of the servers, whose names these are."""
    records = [[record for phase in phases for record in phase.requests] for phases in servers]
    return (
        distribution(
            "Time to first token", [measures.times_to_first_token(one) for one in records], names
        ),
        distribution("Gap between tokens", [_gaps(one) for one in records], names),
        over_time(servers, names),
    )


def distribution(title: str, values: Sequence[Sequence[float]], names: Sequence[str]) -> Chart:
    """The share of values up to each, which are in seconds and shown in milliseconds."""
    times = [sorted(value * 1000 for value in one) for one in values]
    return Chart(
        title=title,
        across_name="ms",
        across=by_ratios((value for one in times for value in one), INNER_WIDTH),
        up=Axis(0.0, 1.0, INNER_HEIGHT),
        series=[
            Series(name, number, tuple(_shares(one)))
            for number, (name, one) in enumerate(zip(names, times, strict=True))
        ],
        stairs=True,
        up_label=lambda share: f"{share:.0%}",
    )


def over_time(servers: Sequence[Phases], names: Sequence[str]) -> Chart:
    """Tokens a second from each phase's start, on average over the repetitions."""
    longest = max((_end(phase) for phases in servers for phase in phases), default=0.0)
    width = max(longest / BINS, BIN_SECONDS_MIN)
    lines = [_rates(phases, width) for phases in servers]
    return Chart(
        title="Output, tokens a second",
        across_name="seconds from the start",
        across=from_zero((x for points in lines for x, _ in points), INNER_WIDTH),
        up=from_zero((y for points in lines for _, y in points), INNER_HEIGHT),
        series=[
            Series(name, number, points)
            for number, (name, points) in enumerate(zip(names, lines, strict=True))
        ],
        up_label=lambda rate: f"{rate:g}",
    )


def _gaps(records: Iterable[Record]) -> list[float]:
    return [gap.seconds for record in records for gap in measures.gaps(record)]


def _shares(ordered: Sequence[float]) -> list[Point]:
    """Of the ordered values, a part where there are many, the least and the greatest among it."""
    count = len(ordered)
    step = max(1, math.ceil(count / POINTS_MAX))
    chosen = sorted({*range(0, count, step), count - 1}) if count else []
    return [(ordered[i], (i + 1) / count) for i in chosen]


def _rates(phases: Phases, width: float) -> tuple[Point, ...]:
    bins: dict[int, int] = {}
    for phase in phases:
        start = _start(phase)
        for record in phase.requests:
            for arrival in record.arrivals:
                number = int((arrival.time - start) / width)
                bins[number] = bins.get(number, 0) + arrival.tokens
    last = max(bins, default=-1)
    scale = 1 / (width * max(len(phases), 1))
    return tuple(((i + 0.5) * width, bins.get(i, 0) * scale) for i in range(last + 1))


def _start(phase: PhaseRecord) -> float:
    return min((record.sent for record in phase.requests), default=0.0)


def _end(phase: PhaseRecord) -> float:
    return max((record.ended for record in phase.requests), default=0.0) - _start(phase)
