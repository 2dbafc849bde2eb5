"""Draws panels with curves as parts of a self-contained SVG picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from llm_serving_engine.clients.bench.html.axis import Axis

PANEL_WIDTH, PANEL_HEIGHT = 390, 216
FAINT = "#5f6b7a"
_INK, _GRID, _PAPER = "#1f2933", "#e3e8ee", "#ffffff"

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a panel: its name, its colour, its points in the axes' units, and its dashes."""

    name: str
    colour: str
    points: Points
    dashes: str = "none"


def page(width: float, height: float) -> ElementTree.Element:
    """An empty picture."""
    root = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "font-family": "system-ui, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif",
            "font-size": "12",
            "fill": _INK,
        },
    )
    _shape(root, "rect", width=width, height=height, fill=_PAPER)
    return root


def content(root: ElementTree.Element) -> str:
    """The text of the picture's file."""
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def panel(
    parent: ElementTree.Element,
    place: tuple[float, float],
    across: Axis,
    up: Axis,
    across_name: str,
    up_name: str,
) -> ElementTree.Element:
    """A grid with labels; what is drawn in it has its origin at the top left."""
    grid = group(parent, *place)
    for tick in across.ticks():
        at = across.place(tick)
        _line(grid, at, 0, at, PANEL_HEIGHT, _GRID)
        text(grid, at, PANEL_HEIGHT + 17, _duration(tick), colour=FAINT, anchor="middle")
    for tick in up.ticks():
        at = PANEL_HEIGHT - up.place(tick)
        _line(grid, 0, at, PANEL_WIDTH, at, _GRID)
        label = f"{tick:.0%}" if up.high == 1 else _count(tick)
        text(grid, -8, at + 4, label, colour=FAINT, anchor="end")
    _line(grid, 0, PANEL_HEIGHT, PANEL_WIDTH, PANEL_HEIGHT, FAINT)
    text(grid, PANEL_WIDTH / 2, PANEL_HEIGHT + 36, across_name, anchor="middle")
    text(grid, 0, -8, up_name)
    return grid


def curves(
    grid: ElementTree.Element,
    lines: Sequence[Curve],
    across: Axis,
    up: Axis,
    stairs: bool = False,
) -> None:
    """The lines, and what they are called, on the right."""
    for number, curve in enumerate(lines):
        placed = [(across.place(x), PANEL_HEIGHT - up.place(y)) for x, y in curve.points]
        if stairs and placed:
            placed = [*_stairs(placed), (PANEL_WIDTH, placed[-1][1])]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        _shape(
            grid,
            "polyline",
            points=points,
            fill="none",
            stroke=curve.colour,
            stroke_width=2,
            stroke_dasharray=curve.dashes,
            stroke_linejoin="round",
        )
        at = 12 + 18 * number
        _line(grid, PANEL_WIDTH + 12, at - 4, PANEL_WIDTH + 28, at - 4, curve.colour, width=3)
        text(grid, PANEL_WIDTH + 34, at, curve.name)


def _stairs(placed: Points) -> list[tuple[float, float]]:
    """A distribution jumps where a value is."""
    steps, before = [], float(PANEL_HEIGHT)
    for x, y in placed:
        steps += [(x, before), (x, y)]
        before = y
    return steps


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:g} ms" if 0 < seconds < 1 else f"{seconds:g} s"


def _count(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


# Elements


def group(parent: ElementTree.Element, x: float, y: float) -> ElementTree.Element:
    """A part of the picture, with its origin at a place."""
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


def text(
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
    """Write some words at a place."""
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
