"""Draws the request's lifecycle in ARCHITECTURE.md from the table in scheduler/lifecycle.py.

python deploy/diagrams.py           write it
python deploy/diagrams.py --check   fail where what is there differs
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from llm_serving_engine.scheduler.lifecycle import TRANSITIONS, State

DOCUMENT = Path(__file__).resolve().parent.parent / "ARCHITECTURE.md"
BEGIN = "<!-- lifecycle: drawn by `make diagrams` -->"
END = "<!-- /lifecycle -->"


def lifecycle() -> str:
    """The table as a Mermaid state diagram; events that lead the same way share an arrow."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for (state, event), target in TRANSITIONS.items():
        arrows.setdefault((state, target), []).append(event.value)
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> waiting: submit"]
    lines += [
        f"    {state.value} --> {target.value}: {' / '.join(events)}"
        for (state, target), events in arrows.items()
    ]
    lines += [f"    {state.value} --> [*]" for state in State if state.ended]
    return "\n".join([*lines, "```"])


def drawn(text: str) -> str:
    """The document with its diagram drawn again. Raises ValueError where it has no place for it."""
    place = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)
    result, found = place.subn(lambda _: f"{BEGIN}\n\n{lifecycle()}\n\n{END}", text)
    if found != 1:
        raise ValueError(f"{found} places for the lifecycle, each from {BEGIN} to {END}")
    return result


def main() -> int:
    """Write, or check; the exit code."""
    text = DOCUMENT.read_text()
    wanted = drawn(text)
    if "--check" not in sys.argv[1:]:
        DOCUMENT.write_text(wanted)
    elif text != wanted:
        sys.stderr.write(f"error: {DOCUMENT.name}: the lifecycle is stale; run: make diagrams\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
