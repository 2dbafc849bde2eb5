"""The report that every workload has: rates, times, errors, by phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from llm_serving_engine.clients.bench import measures
from llm_serving_engine.clients.bench.measures import Load
from llm_serving_engine.clients.bench.record import PhaseRecord
from llm_serving_engine.clients.bench.report import Report, counts, spread_milliseconds

COLUMNS = (
    "tokens/s",
    "ratio",
    "goodput",
    "TTFT p50 ms",
    "p95",
    "p99",
    "max",
    "gap p50 ms",
    "p95",
    "p99",
    "max",
    "errors",
    "client CPU s",
)


def load_report(title: str, phases: Sequence[PhaseRecord], of: str = "clients") -> Report:
    """A row for each name of phases, which says `of` what it is; numbers stay numbers in JSON."""
    names = dict.fromkeys(phase.name for phase in phases)
    loads = {
        name: measures.load([phase for phase in phases if phase.name == name]) for name in names
    }
    first = next(iter(loads.values())).tokens_per_second
    return Report(
        title=title,
        columns=(of, *COLUMNS),
        rows=tuple((name, *_row(load, first)) for name, load in loads.items()),
        results=[{of: _number(name), **asdict(load)} for name, load in loads.items()],
        errors=measures.failures(record for phase in phases for record in phase.requests),
    )


def _number(name: str) -> Any:
    return int(name) if name.isdigit() else name


def _row(load: Load, first: float) -> tuple[str, ...]:
    return (
        f"{load.tokens_per_second:.1f}",
        f"{load.tokens_per_second / first:.2f}" if first else "-",
        f"{load.goodput:.1f}",
        *spread_milliseconds(load.time_to_first_token),
        *spread_milliseconds(load.gap),
        counts(load.errors),
        f"{load.cpu_seconds:.2f}",
    )
