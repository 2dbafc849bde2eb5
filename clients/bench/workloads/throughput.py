"""How many tokens a second there are in all, as the number of clients grows.

In a round, each number of clients has its turn: a machine that slows down or
warms up does so for all of them. In a turn every client sends one request, all
at once, and each request its own prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict

from llm_serving_engine.clients.bench import measures
from llm_serving_engine.clients.bench.measures import Load
from llm_serving_engine.clients.bench.plan import Lane, Phase, Plan, PlannedRequest
from llm_serving_engine.clients.bench.record import PhaseRecord
from llm_serving_engine.clients.bench.report import Report, counts, milliseconds
from llm_serving_engine.clients.bench.settings import Settings
from llm_serving_engine.clients.bench.words import prompt

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


def plan(settings: Settings) -> Plan:
    """Rounds times numbers of clients."""
    numbers = itertools.count()

    def lane() -> Lane:
        text = prompt(next(numbers), settings.prompt_words, settings.seed)
        return (PlannedRequest(text, settings.max_tokens),)

    return tuple(
        Phase(str(clients), tuple(lane() for _ in range(clients)))
        for _ in range(settings.rounds)
        for clients in settings.clients
    )


def report(phases: Sequence[PhaseRecord]) -> Report:
    """A row for each number of clients."""
    names = dict.fromkeys(phase.name for phase in phases)
    loads = {
        name: measures.load([phase for phase in phases if phase.name == name]) for name in names
    }
    first = next(iter(loads.values())).tokens_per_second
    return Report(
        title="Throughput",
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
