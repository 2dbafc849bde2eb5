"""Draws the states in ARCHITECTURE.md from the tables in scheduler/lifecycle.py.

python deploy/diagrams.py           write it
python deploy/diagrams.py --check   fail where what is there differs
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from generated_section import update

from llm_serving_engine.scheduler.lifecycle import (
    SLOT_TRANSITIONS,
    SNAPSHOT_TRANSITIONS,
    TRANSITIONS,
    SlotState,
    SnapshotState,
    State,
)

DOCUMENT = Path(__file__).resolve().parent.parent / "ARCHITECTURE.md"
BEGIN = "<!-- lifecycle: drawn by `make diagrams` -->"
END = "<!-- /lifecycle -->"


def diagram(table: Mapping[tuple[Any, Any], Any], begin: str, ends: tuple[enum.Enum, ...]) -> str:
    """A table as a Mermaid state diagram; events that lead the same way share an arrow."""
    arrows: dict[tuple[enum.Enum, enum.Enum], list[str]] = {}
    for (state, event), target in table.items():
        arrows.setdefault((state, target), []).append(event.value)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {begin}"]
    lines += [
        f"    {state.value} --> {target.value}: {' / '.join(events)}"
        for (state, target), events in arrows.items()
    ]
    lines += [f"    {state.value} --> [*]" for state in ends]
    return "\n".join([*lines, "```"])


def lifecycle() -> str:
    """All tables, each with its title."""
    ended = tuple(state for state in State if state.ended)
    return "\n\n".join(
        (
            "A request:",
            diagram(TRANSITIONS, f"{State.WAITING.value}: submit", ended),
            "A slot:",
            diagram(SLOT_TRANSITIONS, SlotState.FREE.value, ()),
            "A saved cache:",
            diagram(
                SNAPSHOT_TRANSITIONS, f"{SnapshotState.PENDING.value}: save", (SnapshotState.GONE,)
            ),
        )
    )


if __name__ == "__main__":
    sys.exit(update(DOCUMENT, BEGIN, END, lifecycle()))
