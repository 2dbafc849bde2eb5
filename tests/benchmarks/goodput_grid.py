"""Draws what an overloaded server delivers in time, beside one that serves all as they came.

    PYTHONPATH=tests/fixtures python tests/benchmarks/goodput_grid.py PICTURE.svg

Simulated: costs of the built-in model, 16 slots, twice and four times the capacity. It
prints the figures too, as parts of the capacity.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

from overload_traces import capacity, goodput, goodput_first_come, offered, server

from llm_serving_engine.server.simulator.replay import replay

LOADS, DEADLINES = (2, 4), (5, 10, 30)
ROWS = {"one size": False, "mixed sizes": True}
COLOURS = {"deadlines known": "#2f6fde", "first come": "#7b8794"}
PANEL, BAR, HEIGHT, LEFT, TOP = 250, 26, 130, 90, 70


def cell(load: int, deadline: float, mixed: bool) -> tuple[float, float]:
    """The goodput with the scheduler, and first-come, as parts of the capacity."""
    settings = server()
    tokens, requests = capacity(settings, mixed=mixed)
    records = offered(load * requests, max(60, 4 * deadline), deadline, mixed=mixed)
    ours = goodput(replay(records, "fair", settings), records)
    return ours / tokens, goodput_first_come(records, settings) / tokens


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


def draw(figures: dict[tuple[str, int, int], tuple[float, float]]) -> str:
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
                for number, part in enumerate(figures[sizes, load, deadline]):
                    bar(root, x + number * BAR, bottom, part, list(COLOURS.values())[number])
                text(root, x + BAR, bottom + 16, f"{deadline} s", **{"text-anchor": "middle"})
            text(root, left + PANEL / 2, bottom + 34, f"{load}x", **{"text-anchor": "middle"})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def main() -> None:
    """Simulate all, print, and draw."""
    figures = {}
    for sizes, mixed in ROWS.items():
        for load in LOADS:
            for deadline in DEADLINES:
                figures[sizes, load, deadline] = ours, first = cell(load, deadline, mixed)
                print(f"{sizes}, {load}x, {deadline} s: {ours:.2f}, first come {first:.2f}")
    Path(sys.argv[1]).write_text(draw(figures))


if __name__ == "__main__":
    main()
