"""Draws what an overloaded server delivers in time, beside what is possible, and first-come.

    PYTHONPATH=tests/fixtures .venv/bin/python tests/benchmarks/goodput_grid.py PICTURE.svg

Simulated: costs of the built-in model and 2.5 times as high, 16 slots, twice and four times
the capacity for two minutes. It prints the figures too, as parts of the capacity, with the
tokens of answers that came too late. What is possible is the best that any number of
clients gets that send one request after the other, each in time by its length, which a
server cannot know (`most_in_time`).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from overload_traces import (
    LARGE_COSTS,
    capacity,
    most_in_time,
    offered,
    server,
    steady_goodput,
)

from llm_serving_engine.server.simulator.costs import DEFAULT_COSTS
from llm_serving_engine.server.simulator.replay import replay

LOADS, DEADLINES, SECONDS = (2, 4), (5, 10, 30), 120.0
ROWS = {
    "one size": (DEFAULT_COSTS, False),
    "mixed sizes": (DEFAULT_COSTS, True),
    "one size, 2.5x costs": (LARGE_COSTS, False),
    "mixed, 2.5x costs": (LARGE_COSTS, True),
}
COLOURS = {"deadlines known": "#2f6fde", "first come": "#7b8794", "possible": "#1f2933"}
PANEL, BAR, HEIGHT, LEFT, TOP = 250, 26, 130, 150, 70


class Cell(NamedTuple):
    """Goodputs as parts of the capacity, and the tokens of answers that came too late."""

    ours: float
    first_come: float
    possible: float
    late: float


@cache
def possible(sizes: str, deadline: float) -> float:
    """What is possible, whatever the load is."""
    costs, mixed = ROWS[sizes]
    return most_in_time(server(costs=costs), deadline, SECONDS, mixed=mixed)


def cell(sizes: str, load: int, deadline: float) -> Cell:
    """What the scheduler delivers, and the others."""
    costs, mixed = ROWS[sizes]
    settings = server(costs=costs)
    tokens, requests = capacity(settings, mixed=mixed)
    records = offered(load * requests, SECONDS, deadline, mixed=mixed)
    unaware = [replace(record, deadline=None) for record in records]
    ours, first_come = (
        replay(trace, policy, settings).outcomes
        for trace, policy in ((records, "fair"), (unaware, "first_come"))
    )
    goodputs = (steady_goodput(outcomes, deadline, SECONDS) for outcomes in (ours, first_come))
    late = sum(outcome.output_tokens for outcome in ours if not outcome.in_time) / SECONDS
    return Cell(*(part / tokens for part in (*goodputs, possible(sizes, deadline), late)))


def text(parent: ElementTree.Element, x: float, y: float, words: str, **more: str) -> None:
    """Write some words."""
    ElementTree.SubElement(parent, "text", {"x": f"{x:g}", "y": f"{y:g}", **more}).text = words


def bar(parent: ElementTree.Element, x: float, bottom: float, part: float, colour: str) -> None:
    """Draw a bar, with its value on top."""
    size = {"x": f"{x:g}", "y": f"{bottom - part * HEIGHT / 1.2:g}", "width": str(BAR)}
    size |= {"height": f"{part * HEIGHT / 1.2:g}", "fill": colour}
    ElementTree.SubElement(parent, "rect", size)
    middle = {"text-anchor": "middle", "font-size": "11"}
    text(parent, x + BAR / 2, bottom - part * HEIGHT / 1.2 - 4, f"{part:.2f}", **middle)


def mark(parent: ElementTree.Element, x: float, bottom: float, part: float) -> None:
    """Draw a line across two bars, with its value."""
    y = f"{bottom - part * HEIGHT / 1.2:g}"
    line = {"x1": f"{x - 3:g}", "x2": f"{x + 2 * BAR + 3:g}", "y1": y, "y2": y}
    ElementTree.SubElement(parent, "line", {**line, "stroke": COLOURS["possible"]})
    words = {"font-size": "11", "dominant-baseline": "middle"}
    text(parent, x + 2 * BAR + 5, float(y), f"{part:.2f}", **words)


def draw(figures: dict[tuple[str, int, int], Cell]) -> str:
    """The picture: a row for each mix of sizes, a panel for each load."""
    width, height = LEFT + len(LOADS) * (PANEL + 40), TOP + len(ROWS) * (HEIGHT + 60)
    font = "system-ui, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif"
    attributes = {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height)}
    attributes |= {"xmlns": "http://www.w3.org/2000/svg", "font-family": font, "font-size": "12"}
    root = ElementTree.Element("svg", attributes)
    page = {"width": str(width), "height": str(height), "fill": "#ffffff"}
    ElementTree.SubElement(root, "rect", page)
    text(root, 16, 24, "Goodput under overload, as a part of the capacity", **{"font-size": "16"})
    for number, (name, colour) in enumerate(COLOURS.items()):
        text(root, LEFT + 150 * number, 46, f"■ {name}", fill=colour)
    for row, sizes in enumerate(ROWS):
        bottom = TOP + row * (HEIGHT + 60) + HEIGHT
        text(root, 16, bottom - HEIGHT / 2, sizes)
        for column, load in enumerate(LOADS):
            left = LEFT + column * (PANEL + 40)
            line = {"x1": str(left), "x2": str(left + PANEL), "stroke": "#5f6b7a"}
            line |= {"y1": f"{bottom}", "y2": f"{bottom}"}
            ElementTree.SubElement(root, "line", line)
            for place, deadline in enumerate(DEADLINES):
                x = left + 12 + place * PANEL / len(DEADLINES)
                *bars, best, _ = figures[sizes, load, deadline]
                for number, part in enumerate(bars):
                    bar(root, x + number * BAR, bottom, part, list(COLOURS.values())[number])
                mark(root, x, bottom, best)
                text(root, x + BAR, bottom + 16, f"{deadline} s", **{"text-anchor": "middle"})
            text(root, left + PANEL / 2, bottom + 34, f"{load}x", **{"text-anchor": "middle"})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def main() -> None:
    """Simulate all, print, and draw."""
    figures = {}
    for sizes in ROWS:
        for load in LOADS:
            for deadline in DEADLINES:
                figures[sizes, load, deadline] = found = cell(sizes, load, deadline)
                print(
                    f"{sizes}, {load}x, {deadline} s: {found.ours:.2f}, "
                    f"first come {found.first_come:.2f}, possible {found.possible:.2f}, "
                    f"late {found.late:.2f}",
                    flush=True,
                )
    Path(sys.argv[1]).write_text(draw(figures))


if __name__ == "__main__":
    main()
