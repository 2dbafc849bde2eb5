"""The report of measurements that are told by how many clients there were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from llm_serving_engine.clients.bench import measures
from llm_serving_engine.clients.bench.measures import Load
from llm_serving_engine.clients.bench.record import PhaseRecord
from llm_serving_engine.clients.bench.report import Report, counts, milliseconds

COLUMNS = (
    "clients",
    "tokens/s",
    "ratio",
    "TTFT p50 ms",
    "p95",
    "p99",
    "gap p50 ms",
    "p99",
    "max",
    "errors",
    "client CPU s",
)


def load_report(title: str, phases: Sequence[PhaseRecord]) -> Report:
    """A row for each number of clients, which are the names of the phases."""
    names = dict.fromkeys(phase.name for phase in phases)
    loads = {
        name: measures.load([phase for phase in phases if phase.name == name]) for name in names
    }
    first = next(iter(loads.values())).tokens_per_second
    return Report(
        title=title,
        columns=COLUMNS,
        rows=tuple(_row(name, load, first) for name, load in loads.items()),
        results=[{"clients": int(name), **asdict(load)} for name, load in loads.items()],
        errors=measures.errors(record for phase in phases for record in phase.requests),
    )


def _row(clients: str, load: Load, first: float) -> tuple[str, ...]:
    ttft, gap = load.time_to_first_token, load.gap
    return (
        clients,
        f"{load.tokens_per_second:.1f}",
        f"{load.tokens_per_second / first:.2f}" if first else "-",
        *map(milliseconds, (ttft.p50, ttft.p95, ttft.p99, gap.p50, gap.p99, gap.max)),
        counts(load.errors),
        f"{load.cpu_seconds:.2f}",
    )
