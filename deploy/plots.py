"""Saves the plots of a report that `bench --html` wrote as pictures of their own.

python deploy/plots.py REPORT.html FOLDER   write FOLDER/REPORT[-PHASE]-PLOT.svg
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
PHASE_OR_PLOT = re.compile(
    r'<h2>Phase (?P<phase>.*?)</h2>|(?P<svg><svg.*?aria-label="(?P<label>.*?)".*?</svg>)', re.DOTALL
)


def pictures(report: str) -> dict[str, str]:
    """The plots by name, each with the report's style in it."""
    style, phase, found = "".join(STYLE.findall(report)), "", {}
    for match in PHASE_OR_PLOT.finditer(report):
        if match["svg"] is None:
            phase = match["phase"]
            continue
        plot = re.split(r",| of ", match["label"])[0]
        name = "-".join(re.findall(r"\w+", f"{phase} {plot}".lower()))
        found[name] = match["svg"].replace(">", f"><style>{style}</style>", 1)
    return found


def main() -> int:
    """Write them; the exit code."""
    report, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures(report.read_text()).items():
        (folder / f"{report.stem}-{name}.svg").write_text(f"{picture}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
