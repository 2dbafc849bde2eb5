"""The upper part: the scheduler as a whole, in a line for each question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.table import Table
from rich.text import Text

from llm_serving_engine.clients.operations import SchedulerState, SlotActivity, StepState
from llm_serving_engine.clients.top.formatting import counted, memory, plain, seconds, sparkline
from llm_serving_engine.clients.top.history import History

STYLES: dict[SlotActivity, str] = {
    "decode": "green",
    "prefill": "yellow",
    "sharing": "magenta",
    "cached": "blue",
    "free": "bright_black",
    "unspecified": "red",
}
_LETTERS: dict[SlotActivity, str] = {
    "decode": "D",
    "prefill": "P",
    "sharing": "S",
    "cached": "c",
    "free": "·",
    "unspecified": "?",
}
_LABEL_WIDTH = 9
_CURVE_WIDTH_MAX = 60
_RATES_WIDTH = 42


def overview(state: SchedulerState, history: History, width: int) -> Table:
    """Rates, the last step, slots at a glance, ends, refusals, caches."""
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold", min_width=_LABEL_WIDTH, no_wrap=True)
    room = width - _LABEL_WIDTH - 1
    table.add_column(max_width=room, overflow="ellipsis", no_wrap=True)
    curve_width = min(room - _RATES_WIDTH, _CURVE_WIDTH_MAX)
    table.add_row("tokens/s", _rates(state, history, curve_width))
    table.add_row("last step", _step(state.last_step))
    table.add_row("slots", _map(state))
    table.add_row("", _slots(state))
    table.add_row("ended", _counts(state.outcomes) or "nothing yet")
    table.add_row("refused", _counts(state.refusals) or "none")
    table.add_row("caches", _caches(state))
    table.add_row("moved", _moved(state))
    return table


def _rates(state: SchedulerState, history: History, width: int) -> Text:
    text = Text(f"{state.tokens_per_second:.1f}", style="bold green")
    text.append(" produced", style="default not bold")
    text.append(f" · {state.prefill_tokens_per_second:.1f} of prompts  ", style="default not bold")
    if len(history.tokens_per_second) > 1:
        text.append(sparkline(history.tokens_per_second, width), style="green not bold")
    return text


def _step(step: StepState | None) -> Text:
    if step is None:
        return Text("none yet")
    parts = []
    if step.decode_rows:
        runs = counted(step.decode_runs, "run")
        parts.append(f"{counted(step.decode_rows, 'row')} in {runs}")
    if step.prefill_tokens:
        chunks = counted(step.prefill_chunks, "chunk")
        parts.append(f"{counted(step.prefill_tokens, 'prompt token')} in {chunks}")
    for number, one, several in (
        (step.copies, "copy", "copies"),
        (step.saves, "save", "saves"),
        (step.restores, "restore", "restores"),
    ):
        if number:
            parts.append(counted(number, one, several))
    late = step.prefill_tokens > 0 and step.duration > step.target
    text = Text(seconds(step.duration), style="red" if late else "cyan")
    text.append(
        f" of {seconds(step.target)} (expected {seconds(step.predicted)}): ", style="default"
    )
    return text.append(", ".join(parts) or "nothing to compute", style="default")


def _map(state: SchedulerState) -> Text:
    text = Text()
    for slot in state.slots:
        text.append(_LETTERS[slot.state], style=STYLES[slot.state])
    return text


def _slots(state: SchedulerState) -> Text:
    numbers = {
        activity: sum(slot.state == activity for slot in state.slots) for activity in _LETTERS
    }
    text = Text()
    for activity, number in numbers.items():
        if number:
            text.append(" · " if text else "", style="default")
            text.append(f"{number} {activity}", style=STYLES[activity])
    return text


def _caches(state: SchedulerState) -> str:
    totals = state.totals
    retained = sum(slot.tokens for slot in state.slots if slot.state == "cached")
    return (
        f"{counted(totals.prefix_hits, 'prefix hit')}, {counted(totals.prefix_tokens, 'token')}"
        f" · {retained:,} retained"
        f" · saved {memory(state.saved_cache_bytes)} of {memory(state.saved_cache_bytes_max)}"
    )


def _moved(state: SchedulerState) -> str:
    totals = state.totals
    return (
        f"{totals.preemptions:,} preempted, {totals.saves:,} of them saved"
        f" · {totals.moves:,} moved to keep rows dense"
    )


def _counts(counts: Mapping[str, int]) -> str:
    most_first: Iterable[tuple[str, int]] = sorted(
        counts.items(), key=lambda one: (-one[1], one[0])
    )
    return " · ".join(f"{number:,} {plain(name)}" for name, number in most_first)
