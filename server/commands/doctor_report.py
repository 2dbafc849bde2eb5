"""Prints the findings of `doctor`: a list with marks, tab-separated lines in a pipe, or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_serving_engine.server.doctor.finding import Finding, Verdict

STYLES = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.PROBLEM: "bold red"}


def print_findings(findings: Iterable[Finding], as_json: bool) -> list[Finding]:
    """Print findings as they arrive, and return them."""
    if as_json:
        found = list(findings)
        ok = not any(finding.verdict is Verdict.PROBLEM for finding in found)
        typer.echo(json.dumps({"ok": ok, "findings": [one.to_json() for one in found]}, indent=1))
        return found
    console = Console()
    if console.is_terminal:
        return _print_sections(findings, console)
    found = []
    for finding in findings:
        found.append(finding)
        cells = (finding.verdict.value, finding.section, finding.name, finding.value)
        typer.echo("\t".join(filter(None, (*cells, finding.advice))))
    return found


def _print_sections(findings: Iterable[Finding], console: Console) -> list[Finding]:
    found = []
    section = ""
    for finding in findings:
        found.append(finding)
        if finding.section != section:
            section = finding.section
            console.print(Text(section, style="bold"))
        console.print(_row(finding))
    problems = sum(finding.verdict is Verdict.PROBLEM for finding in found)
    notes = sum(finding.verdict is Verdict.NOTE for finding in found)
    words = "all ok" if not problems else f"{problems} to be mended"
    console.print(Text(f"{words}; notes: {notes}" if notes else words, style="bold"))
    return found


def _row(finding: Finding) -> Table:
    row = Table.grid(padding=(0, 2))
    row.add_column(width=7)
    row.add_column(width=22)
    row.add_column(overflow="fold")
    # Never as markup: paths may hold brackets.
    value = Text(finding.value)
    if finding.advice:
        value.append(f"\n{finding.advice}", style=STYLES[finding.verdict])
    mark = Text(finding.verdict.value, style=STYLES[finding.verdict])
    row.add_row(mark, Text(finding.name), value)
    return row
