"""The picture that `simulate` draws: an SVG without anything from outside.

A row for each policy: on the left how long the first token took, per class, as
a cumulative distribution; on the right what each tenant was served over time.
All rows have the same axes, so that they can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from llm_serving_engine.clients.bench.html.axis import Axis, by_ratios, from_zero
from llm_serving_engine.scheduler.request import Priority
from llm_serving_engine.server.simulator.replay import Replay

WIDTH, ROW, HEAD = 1180, 352, 52
_PANEL_WIDTH, _PANEL_HEIGHT = 390, 216
_LEFT, _RIGHT, _TOP = 64, 618, 80
_INK, _FAINT, _GRID, _PAPER = "#1f2933", "#5f6b7a", "#e3e8ee", "#ffffff"
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

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a panel: its name, its colour, and its points in the axes' units."""

    name: str
    colour: str
    points: Points


def draw(replays: Sequence[Replay]) -> str:
    """The picture of some replays of one trace, as the text of an SVG file."""
    height = HEAD + ROW * len(replays)
    root = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {WIDTH} {height}",
            "width": str(WIDTH),
            "height": str(height),
            "font-family": "system-ui, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif",
            "font-size": "12",
            "fill": _INK,
        },
    )
    _shape(root, "rect", width=WIDTH, height=height, fill=_PAPER)
    requests = len(replays[0].outcomes)
    _text(root, _LEFT, 34, f"{requests} requests, by policy", size=18, bold=True)
    waits, times, services = _axes(replays)
    for number, replay in enumerate(replays):
        row = _group(root, 0, HEAD + ROW * number)
        _text(row, _LEFT, 22, replay.policy, size=15, bold=True)
        _text(row, _LEFT, 42, _facts(replay), colour=_FAINT)
        shares = Axis(0, 1, _PANEL_HEIGHT)
        left = _panel(row, _LEFT, waits, shares, "time to first token", "part of requests")
        _curves(left, _first_token_curves(replay), waits, shares, stairs=True)
        right = _panel(row, _RIGHT, times, services, "time", "service, weighted tokens")
        _curves(right, _service_curves(replay), times, services)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _facts(replay: Replay) -> str:
    good = sum(outcome.in_time for outcome in replay.outcomes) / len(replay.outcomes)
    gap = max(replay.fairness_gaps.values())
    done = f"done after {replay.makespan:.1f} s"
    return f"{good:.0%} in time · {done} · fairness gap {gap:.0f} weighted tokens"


def _axes(replays: Sequence[Replay]) -> tuple[Axis, Axis, Axis]:
    """Of waits, of time, and of service, for all of them."""
    outcomes = [outcome for replay in replays for outcome in replay.outcomes]
    curves = [points for replay in replays for points in replay.service.values()]
    return (
        by_ratios((outcome.first_token_seconds or 0.0 for outcome in outcomes), _PANEL_WIDTH),
        from_zero((replay.makespan for replay in replays), _PANEL_WIDTH),
        from_zero((value for points in curves for _, value in points), _PANEL_HEIGHT),
    )


def _first_token_curves(replay: Replay) -> list[Curve]:
    """Of each class, the part that had its first token by then; refused ones never do."""
    curves = []
    for priority in sorted(Priority, reverse=True):
        outcomes = [o for o in replay.outcomes if o.record.priority is priority]
        waits = sorted(o.first_token_seconds for o in outcomes if o.first_token_seconds is not None)
        if not outcomes:
            continue
        points = [(wait, (i + 1) / len(outcomes)) for i, wait in enumerate(waits)]
        curves.append(Curve(priority.name.lower(), _CLASS_COLOURS[priority], _thinned(points)))
    return curves


def _service_curves(replay: Replay) -> list[Curve]:
    return [
        Curve(_shortened(tenant), colour, points)
        for (tenant, points), colour in zip(replay.service.items(), _TENANT_COLOURS, strict=False)
    ]


def _panel(
    row: ElementTree.Element, x: float, across: Axis, up: Axis, across_name: str, up_name: str
) -> ElementTree.Element:
    """A grid with labels; what is drawn in it has its origin at the top left."""
    panel = _group(row, x, _TOP)
    for tick in across.ticks():
        at = across.place(tick)
        _line(panel, at, 0, at, _PANEL_HEIGHT, _GRID)
        _text(panel, at, _PANEL_HEIGHT + 17, _duration(tick), colour=_FAINT, anchor="middle")
    for tick in up.ticks():
        at = _PANEL_HEIGHT - up.place(tick)
        _line(panel, 0, at, _PANEL_WIDTH, at, _GRID)
        label = f"{tick:.0%}" if up.high == 1 else _count(tick)
        _text(panel, -8, at + 4, label, colour=_FAINT, anchor="end")
    _line(panel, 0, _PANEL_HEIGHT, _PANEL_WIDTH, _PANEL_HEIGHT, _FAINT)
    _text(panel, _PANEL_WIDTH / 2, _PANEL_HEIGHT + 36, across_name, anchor="middle")
    _text(panel, 0, -8, up_name)
    return panel


def _curves(
    panel: ElementTree.Element,
    curves: Sequence[Curve],
    across: Axis,
    up: Axis,
    stairs: bool = False,
) -> None:
    """The lines, and what they are called, on the right."""
    for number, curve in enumerate(curves):
        placed = [(across.place(x), _PANEL_HEIGHT - up.place(y)) for x, y in curve.points]
        if stairs and placed:
            placed = [*_stairs(placed), (_PANEL_WIDTH, placed[-1][1])]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        _shape(
            panel,
            "polyline",
            points=points,
            fill="none",
            stroke=curve.colour,
            stroke_width=2,
            stroke_linejoin="round",
        )
        at = 12 + 18 * number
        _line(panel, _PANEL_WIDTH + 12, at - 4, _PANEL_WIDTH + 28, at - 4, curve.colour, width=3)
        _text(panel, _PANEL_WIDTH + 34, at, curve.name)


def _stairs(placed: Points) -> list[tuple[float, float]]:
    """A distribution jumps where a value is."""
    steps, before = [], float(_PANEL_HEIGHT)
    for x, y in placed:
        steps += [(x, before), (x, y)]
        before = y
    return steps


def _thinned(points: Points, most: int = 200) -> Points:
    """At most about so many of the points, the last among them."""
    every = max(len(points) // most, 1)
    kept = list(points[::every])
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:g} ms" if 0 < seconds < 1 else f"{seconds:g} s"


def _count(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _shortened(name: str) -> str:
    shown = "".join(c if c.isprintable() else "?" for c in name) or "(none)"
    return shown if len(shown) <= _NAME_MAX else shown[: _NAME_MAX - 1] + "…"


# Elements


def _group(parent: ElementTree.Element, x: float, y: float) -> ElementTree.Element:
    return ElementTree.SubElement(parent, "g", {"transform": f"translate({x:g} {y:g})"})


def _shape(parent: ElementTree.Element, kind: str, **attributes: str | float) -> None:
    named = {name.replace("_", "-"): str(value) for name, value in attributes.items()}
    ElementTree.SubElement(parent, kind, named)


def _line(
    parent: ElementTree.Element,
    x1: float,
    y1: float,
    x2: float,
    y2: float,
    colour: str,
    width: float = 1,
) -> None:
    ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    ElementTree.SubElement(parent, "line", {**ends, "stroke": colour, "stroke-width": f"{width:g}"})


def _text(
    parent: ElementTree.Element,
    x: float,
    y: float,
    text: str,
    *,
    size: float = 12,
    bold: bool = False,
    colour: str = _INK,
    anchor: str = "start",
) -> None:
    attributes = {
        "x": f"{x:.1f}",
        "y": f"{y:.1f}",
        "font-size": f"{size:g}",
        "fill": colour,
        "text-anchor": anchor,
    }
    if bold:
        attributes["font-weight"] = "600"
    ElementTree.SubElement(parent, "text", attributes).text = text
