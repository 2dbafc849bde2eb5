"""Builds the tables that `simulate` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from llm_serving_engine.server.simulator.replay import Replay
from llm_serving_engine.server.simulator.replay_report import Summary, by_class, summary

NOTE = (
    "in time, good: finished, and before the deadline if there is one. gap: how far the "
    "service of two tenants came apart while both waited in a class, in weighted tokens."
)
# Lines of a head are broken where a terminal of 80 columns needs it.
_CLASS_COLUMNS = (
    "finished",
    "refused",
    "TTFT s\np50",
    "\np95",
    "\np99",
    "ms/tok\np50",
    "\np95",
    "in\ntime",
    "good\n/s",
    "tokens\n/s",
    "gap",
)
_POLICY_COLUMNS = (
    "makespan s",
    "steps",
    "preemptions\n(saved)",
    "moves",
    "prefix\nhits",
    "tokens\nreused",
)
_RECORDED_COLUMNS = ("TTFT s\np50", "\np90", "ms/tok\np50", "tokens\n/s")


def class_table(replay: Replay) -> Table:
    """A policy's classes, and all of them together."""
    table = _table(replay.policy, "class", _CLASS_COLUMNS)
    for priority, found in by_class(replay).items():
        gap = replay.fairness_gaps[priority]
        table.add_row(priority.name.lower(), *_cells(found, gap))
    gap = max(replay.fairness_gaps.values())
    table.add_row("all", *_cells(summary(replay.outcomes, replay.makespan), gap), style="bold")
    return table


def policy_table(replays: Sequence[Replay]) -> Table:
    """Return a table of the scheduler's totals under each policy."""
    table = _table("What the scheduler did", "policy", _POLICY_COLUMNS)
    for replay in replays:
        totals = replay.totals
        table.add_row(
            replay.policy,
            f"{replay.makespan:.1f}",
            str(replay.steps),
            f"{totals.preemptions} ({totals.saves})",
            str(totals.moves),
            str(totals.prefix_hits),
            str(totals.prefix_tokens),
        )
    return table


def recorded_table(recorded: Summary, replays: Sequence[Replay]) -> Table:
    """Return a table of the recorded times, and of each replay as a ratio to them."""
    table = _table("Recorded, and the same replayed", "", _RECORDED_COLUMNS)
    table.add_row("recorded", *map(_three_digits, _compared(recorded)))
    for replay in replays:
        found = _compared(summary(replay.outcomes, replay.makespan))
        pairs = zip(found, _compared(recorded), strict=True)
        table.add_row(replay.policy, *(_part(value, whole) for value, whole in pairs))
    return table


def _compared(found: Summary) -> tuple[float | None, ...]:
    between = None if found.tpot_p50 is None else found.tpot_p50 * 1000
    return found.ttft_p50, found.ttft_p90, between, found.output_tokens_per_second


def _part(value: float | None, whole: float | None) -> str:
    shown = _three_digits(value)
    return f"{shown} ({value / whole:.2f})" if value is not None and whole else shown


def _table(title: str, name: str, numbers: tuple[str, ...]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 0),
        pad_edge=False,
    )
    table.add_column(name, vertical="bottom", no_wrap=True)
    for number in numbers:
        table.add_column(number, justify="right", vertical="bottom", no_wrap=True)
    return table


def _cells(found: Summary, gap: float) -> tuple[str, ...]:
    return (
        f"{found.finished}/{found.requests}",
        str(sum(found.refused.values())),
        _seconds(found.ttft_p50),
        _seconds(found.ttft_p95),
        _seconds(found.ttft_p99),
        _milliseconds(found.tpot_p50),
        _milliseconds(found.tpot_p95),
        f"{found.good_part:.0%}",
        f"{found.goodput:.2f}",
        f"{found.output_tokens_per_second:.1f}",
        f"{gap:.0f}",
    )


def _seconds(seconds: float | None) -> str:
    return _three_digits(seconds)


def _milliseconds(seconds: float | None) -> str:
    return _three_digits(None if seconds is None else seconds * 1000)


def _three_digits(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"
