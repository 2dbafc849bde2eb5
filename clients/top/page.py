"""Composes the whole view, cut to the terminal's size."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llm_serving_engine.clients.operations import SchedulerState
from llm_serving_engine.clients.top.formatting import plain
from llm_serving_engine.clients.top.history import History
from llm_serving_engine.clients.top.overview import overview
from llm_serving_engine.clients.top.tables import classes, slots, tenants

# Lines of all that does not grow: the heading, the overview, the classes, the
# headings of tenants and slots, and an empty line before each of the parts.
_FIXED_LINES = 1 + 8 + 6 + 1 + 1 + 4
_TENANTS_MIN = 3
_WIDE = 100
_HEADING_WIDTH_MAX = 110


def page(
    state: SchedulerState,
    history: History,
    address: str,
    *,
    width: int,
    height: int | None = None,
    problem: str | None = None,
) -> RenderableType:
    """The view of a state.

    Args:
        state: What to show.
        history: What came before.
        address: Where it is from.
        width: Columns.
        height: Lines; None for as many as it takes.
        problem: Why the state is an old one, if it is.
    """
    wide = width >= _WIDE
    of_tenants, of_slots = _rows(state, height, 1 if problem else 0)
    parts: list[RenderableType] = [_heading(state, address, min(width, _HEADING_WIDTH_MAX))]
    if problem is not None:
        parts.append(
            Text(
                f"lost: {plain(problem)}; trying again",
                style="bold red",
                overflow="ellipsis",
                no_wrap=True,
            )
        )
    parts += [Text(""), overview(state, history, width), Text(""), classes(state, wide)]
    # The headings alone would say nothing.
    if state.tenants and of_tenants != 0:
        parts += [Text(""), tenants(state, history, of_tenants, wide)]
    if of_slots != 0:
        parts += [Text(""), slots(state, of_slots, wide)]
    return Group(*parts)


def _heading(state: SchedulerState, address: str, width: int) -> Table:
    left = Text(plain(state.model), style="bold")
    left.append(f" at {address} · {state.policy} · {state.determinism}", style="not bold")
    table = Table.grid(expand=True)
    table.width = width
    table.add_column(no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", no_wrap=True)
    table.add_row(left, Text(f"{state.time:%H:%M:%S} UTC", style="dim"))
    return table


def _rows(
    state: SchedulerState, height: int | None, more_lines: int
) -> tuple[int | None, int | None]:
    """How many tenants and slots are shown: slots first, as there are no more of them ever."""
    if height is None:
        return None, None
    room = max(height - _FIXED_LINES - more_lines, 0)
    wanted = len(state.tenants) + bool(state.tenants_omitted)
    of_tenants = min(max(room - len(state.slots), _TENANTS_MIN), wanted, room)
    return of_tenants, room - of_tenants
