"""Single numbers of a phase, by which two servers are compared."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving_engine.clients.bench import measures
from llm_serving_engine.clients.bench.measures import Spread
from llm_serving_engine.clients.bench.record import PhaseRecord

RATE, TIME, COUNT, SHARE = "tokens/s", "s", "requests", "share"
"""The units. Times are shown in milliseconds."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number.

    Attributes:
        name: Such as "TTFT p50".
        unit: One of those above.
        value: None where there is none, as the first token of a request that failed.
        more_is_better: Which of two servers is the better one.
    """

    name: str
    unit: str
    value: float | None
    more_is_better: bool = False


Figures = tuple[Figure, ...]


def of_load(phase: PhaseRecord) -> Figures:
    """What matters where nothing else does."""
    load = measures.load([phase])
    goodput = (Figure("goodput", RATE, load.goodput, True),)
    return (
        Figure("output", RATE, load.tokens_per_second, True),
        *(goodput if any(record.deadline is not None for record in phase.requests) else ()),
        Figure("until all are done", TIME, load.seconds),
        *of_spread("TTFT", load.time_to_first_token),
        *of_spread("gap", load.gap),
    )


def of_spread(name: str, spread: Spread) -> Figures:
    """The percentiles of times in seconds."""
    return tuple(
        Figure(f"{name} {label}", TIME, value)
        for label, value in (
            ("p50", spread.p50),
            ("p95", spread.p95),
            ("p99", spread.p99),
            ("max", spread.max),
        )
    )
