"""The picture of a comparison: a dot for each round's ratio, a bar at their median."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from llm_serving_engine.clients.bench.compare import Comparison
from llm_serving_engine.clients.bench.html.axis import Axis, by_ratios, number
from llm_serving_engine.clients.bench.html.chart import line, shape, svg, text

WIDTH, ROW = 760, 20
LEFT, RIGHT, TOP, BOTTOM = 300, 60, 14, 40


def draw_ratios(comparisons: Sequence[Comparison]) -> str:
    """An `svg` element with a row for each figure that has a ratio above 0."""
    shown = [one for one in comparisons if one.ratio]
    height = ROW * len(shown)
    root = svg(WIDTH, TOP + height + BOTTOM, "Ratios of this server's figures by the other's")
    panel = shape(root, "g", transform=f"translate({LEFT} {TOP})")
    # 1 is always in view, with room on both sides: it is what the ratios are read against.
    across = by_ratios(
        [0.8, 1.25, *(ratio for one in shown for ratio in one.ratios)], WIDTH - LEFT - RIGHT
    )
    for value in across.ticks():
        at = across.place(value)
        line(panel, at, 0, at, height, "grid")
        text(panel, at, height + 16, number(value), "middle")
    line(panel, across.place(1.0), -6, across.place(1.0), height, "axis")
    text(panel, across.place(1.0), height + 34, "this server by the other; 1: alike", "middle")
    for row, one in enumerate(shown):
        _row(panel, one, across, ROW * (row + 0.5))
    return ElementTree.tostring(root, encoding="unicode")


def _row(panel: ElementTree.Element, one: Comparison, across: Axis, at: float) -> None:
    text(panel, -10, at + 4, f"{one.phase}: {one.figure}", "end")
    for this, other in one.pairs:
        if this > 0 and other > 0:
            better = (this > other) == one.more_is_better
            style = "dot better" if better else "dot worse"
            dot = shape(panel, "circle", cx=f"{across.place(this / other):.1f}", cy=at, r=3.5)
            dot.set("class", style)
            shape(dot, "title").text = f"{this:.4g} by {other:.4g} {one.unit}"
    median = one.ratio or 1.0
    line(panel, across.place(median), at - 7, across.place(median), at + 7, "median")
    text(panel, across.length + 10, at + 4, f"{median:.2f}")
