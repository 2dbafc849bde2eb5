"""A panel with axes and lines, as SVG."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from llm_serving_engine.clients.bench.html.axis import Axis, number

WIDTH, HEIGHT = 380, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 26, 42  # margins
INNER_WIDTH, INNER_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """A line: what it is called, the number of its colour, and its points in the axes' units."""

    name: str
    colour: int
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A panel.

    Attributes:
        title: Above it.
        across_name: What the horizontal axis is, with its unit.
        across: The horizontal axis, INNER_WIDTH long.
        up: The vertical one, INNER_HEIGHT long.
        series: The lines, those of no points included.
        stairs: Whether a line goes across before it goes up, as a distribution does.
        up_label: Makes labels of the vertical axis's values.
    """

    title: str
    across_name: str
    across: Axis
    up: Axis
    series: Sequence[Series]
    stairs: bool = False
    up_label: Callable[[float], str] = number


def draw(chart: Chart) -> str:
    """An `svg` element."""
    root = svg(WIDTH, HEIGHT, chart.title)
    text(root, LEFT, 16, chart.title, "title")
    panel = shape(root, "g", transform=f"translate({LEFT} {TOP})")
    for value in chart.across.ticks():
        at = chart.across.place(value)
        line(panel, at, 0, at, INNER_HEIGHT, "grid")
        text(panel, at, INNER_HEIGHT + 16, number(value), "middle")
    for value in chart.up.ticks():
        at = INNER_HEIGHT - chart.up.place(value)
        line(panel, 0, at, INNER_WIDTH, at, "grid")
        text(panel, -6, at + 4, chart.up_label(value), "end")
    line(panel, 0, INNER_HEIGHT, INNER_WIDTH, INNER_HEIGHT, "axis")
    text(panel, INNER_WIDTH / 2, INNER_HEIGHT + 34, chart.across_name, "middle")
    for series in chart.series:
        _line(panel, chart, series)
    return ElementTree.tostring(root, encoding="unicode")


def _line(panel: ElementTree.Element, chart: Chart, series: Series) -> None:
    placed = [(chart.across.place(x), INNER_HEIGHT - chart.up.place(y)) for x, y in series.points]
    if not placed:
        return
    if chart.stairs:
        placed = [(placed[0][0], INNER_HEIGHT), *_stairs(placed)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    shape(panel, "polyline", **{"class": f"line s{series.colour}", "points": points})


def _stairs(points: Sequence[Point]) -> list[Point]:
    found = [points[0]]
    for (_, before), (x, y) in itertools.pairwise(points):
        found += [(x, before), (x, y)]
    return found


def svg(width: float, height: float, label: str) -> ElementTree.Element:
    """An empty picture; the label is for those who cannot see it."""
    return ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width:g} {height:g}",
            "role": "img",
            "aria-label": label,
        },
    )


def shape(parent: ElementTree.Element, kind: str, **attributes: object) -> ElementTree.Element:
    """An element with these attributes."""
    return ElementTree.SubElement(parent, kind, {key: str(v) for key, v in attributes.items()})


def line(
    parent: ElementTree.Element, x1: float, y1: float, x2: float, y2: float, style: str
) -> None:
    """A straight one."""
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    shape(parent, "line", **{"class": style}, **{key: f"{v:.1f}" for key, v in ends.items()})


def text(parent: ElementTree.Element, x: float, y: float, words: str, style: str = "") -> None:
    """Words, whose start is at (x, y) unless the style says else."""
    shape(parent, "text", x=f"{x:.1f}", y=f"{y:.1f}", **{"class": style}).text = words
