"""Draws the results of `simulate` as a self-contained SVG picture.

Each policy has a row. On the left is the cumulative distribution of the time to
the first token by class, dashed as the trace recorded it; on the right the
service of each tenant over time. All rows have the same axes.
"""

from __future__ import annotations

from collections.abc import Sequence

from llm_serving_engine.clients.bench.html.axis import Axis, by_ratios, from_zero
from llm_serving_engine.scheduler.request import Priority
from llm_serving_engine.server.commands.svg import (
    FAINT,
    PANEL_HEIGHT,
    PANEL_WIDTH,
    Curve,
    Points,
    content,
    curves,
    group,
    page,
    panel,
    text,
)
from llm_serving_engine.server.simulator.recorded import recorded_outcomes
from llm_serving_engine.server.simulator.replay import Outcome, Replay

WIDTH, ROW, HEAD = 1180, 352, 52
_LEFT, _RIGHT, _TOP = 64, 618, 80
_CLASS_COLOURS = {
    Priority.LOW: "#7b8794",
    Priority.NORMAL: "#2f6fde",
    Priority.HIGH: "#e08a00",
    Priority.CRITICAL: "#d0312d",
}
_TENANT_COLOURS = (
    "#2f6fde",
    "#e08a00",
    "#2a9d5c",
    "#b0409c",
    "#d0312d",
    "#00939b",
    "#7a5c3e",
    "#7b8794",
)
_NAME_MAX = 18


def draw(replays: Sequence[Replay]) -> str:
    """The picture of some replays of one trace, as the text of an SVG file."""
    root = page(WIDTH, HEAD + ROW * len(replays))
    requests = len(replays[0].outcomes)
    text(root, _LEFT, 34, f"{requests} requests, by policy", size=18, bold=True)
    waits, times, services = _axes(replays)
    for number, replay in enumerate(replays):
        row = group(root, 0, HEAD + ROW * number)
        text(row, _LEFT, 22, replay.policy, size=15, bold=True)
        text(row, _LEFT, 42, _facts(replay), colour=FAINT)
        shares = Axis(0, 1, PANEL_HEIGHT)
        left = panel(row, (_LEFT, _TOP), waits, shares, "time to first token", "part of requests")
        curves(left, first_token_curves(replay.outcomes), waits, shares, stairs=True)
        right = panel(row, (_RIGHT, _TOP), times, services, "time", "service, weighted tokens")
        curves(right, _service_curves(replay), times, services)
    return content(root)


def _facts(replay: Replay) -> str:
    good = sum(outcome.in_time for outcome in replay.outcomes) / len(replay.outcomes)
    gap = max(replay.fairness_gaps.values())
    done = f"done after {replay.makespan:.1f} s"
    return f"{good:.0%} in time · {done} · fairness gap {gap:.0f} weighted tokens"


def _axes(replays: Sequence[Replay]) -> tuple[Axis, Axis, Axis]:
    """Of waits, of time, and of service, for all of them."""
    outcomes = [outcome for replay in replays for outcome in replay.outcomes]
    outcomes += recorded_outcomes(outcome.record for outcome in replays[0].outcomes)
    lines = [points for replay in replays for points in replay.service.values()]
    return (
        by_ratios((outcome.first_token_seconds or 0.0 for outcome in outcomes), PANEL_WIDTH),
        from_zero((replay.makespan for replay in replays), PANEL_WIDTH),
        from_zero((value for points in lines for _, value in points), PANEL_HEIGHT),
    )


def first_token_curves(outcomes: Sequence[Outcome]) -> list[Curve]:
    """Of each class, the part that had its first token by then, replayed and recorded.

    Refused ones never do.
    """
    found = []
    for priority in sorted(Priority, reverse=True):
        replayed = [o for o in outcomes if o.record.priority is priority]
        recorded = recorded_outcomes(o.record for o in replayed)
        name, colour = priority.name.lower(), _CLASS_COLOURS[priority]
        if replayed:
            found.append(Curve(name, colour, shares(replayed)))
        if recorded:
            found.append(Curve(f"{name}, recorded", colour, shares(recorded), "3 3"))
    return found


def shares(outcomes: Sequence[Outcome]) -> Points:
    """The part of requests that had its first token after so many seconds."""
    waits = sorted(o.first_token_seconds for o in outcomes if o.first_token_seconds is not None)
    return _thinned([(wait, (i + 1) / len(outcomes)) for i, wait in enumerate(waits)])


def _service_curves(replay: Replay) -> list[Curve]:
    return [
        Curve(_shortened(tenant), colour, points)
        for (tenant, points), colour in zip(replay.service.items(), _TENANT_COLOURS, strict=False)
    ]


def _thinned(points: Points, most: int = 200) -> Points:
    """At most about so many of the points, the last among them."""
    every = max(len(points) // most, 1)
    kept = list(points[::every])
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def _shortened(name: str) -> str:
    shown = "".join(c if c.isprintable() else "?" for c in name) or "(none)"
    return shown if len(shown) <= _NAME_MAX else shown[: _NAME_MAX - 1] + "…"
