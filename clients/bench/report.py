"""The report of a workload, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from llm_serving_engine.clients.bench.measures import Spread


@dataclass(frozen=True, slots=True)
class Report:
    """A table, and the same at full precision.

    Attributes:
        title: What was measured.
        columns: The table's head.
        rows: As many words each as there are columns.
        results: What goes into JSON, times in seconds.
        errors: Requests that failed, by code.
        notes: Lines below the table.
        failure: What else makes the run a failed one; empty where nothing does.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    results: list[dict[str, Any]]
    errors: Mapping[str, int]
    notes: tuple[str, ...] = ()
    failure: str = ""


def table(report: Report, suffix: str = "") -> Table:
    """For a terminal; the suffix is of the title."""
    shown = Table(title=report.title + suffix, title_justify="left", title_style="bold")
    for column in report.columns:
        shown.add_column(column, justify="right")
    for row in report.rows:
        shown.add_row(*row)
    return shown


def milliseconds(seconds: float | None) -> str:
    """Such as "12.3"; "-" where there is none."""
    return "-" if seconds is None else f"{seconds * 1000:.1f}"


def spread_milliseconds(spread: Spread) -> tuple[str, str, str, str]:
    """p50, p95, p99, and max."""
    p50, p95, p99, most = map(milliseconds, (spread.p50, spread.p95, spread.p99, spread.max))
    return p50, p95, p99, most


def percent(part: float, whole: float) -> str:
    """Such as "87 %"; "-" of nothing."""
    return f"{part / whole:.0%}".replace("%", " %") if whole else "-"


def counts(errors: Mapping[str, int]) -> str:
    """Such as "3 UNAVAILABLE"; "-" where there are none."""
    return ", ".join(f"{count} {code}" for code, count in errors.items()) or "-"
