"""Prints a run's outcome on a terminal."""

from __future__ import annotations

from rich.console import Console

from llm_serving_engine.clients.bench import compare
from llm_serving_engine.clients.bench.outcome import Outcome, ServerOutcome, described
from llm_serving_engine.clients.bench.report import Report, table
from llm_serving_engine.clients.bench.run import SIDES

PIPE_WIDTH = 180  # columns of a table where no terminal limits it


def show(outcome: Outcome) -> None:
    """Print tables, and under them what was run on what."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    comparing = len(outcome.servers) > 1
    for side, server in zip(SIDES, outcome.servers, strict=False):
        _show_server(console, server, f" ({side} server)" if comparing else "")
    if comparing:
        console.print(table(comparison(outcome)))
    for side, server in zip(SIDES, outcome.servers, strict=False):
        prefix = f"{side} server: " if comparing else ""
        console.print(prefix + described(server.facts), highlight=False, markup=False)
    console.print(outcome.run.line, highlight=False, markup=False)


def comparison(outcome: Outcome) -> Report:
    """Both servers in one table."""
    return Report(
        title="This server by the other, round by round",
        columns=compare.COLUMNS,
        rows=tuple(map(compare.row, outcome.comparison)),
        results=[],
        errors={},
    )


def _show_server(console: Console, server: ServerOutcome, suffix: str) -> None:
    for report in server.reports:
        console.print(table(report, suffix))
        for note in report.notes:
            console.print(note, highlight=False)
