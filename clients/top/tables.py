"""The lower part: classes, tenants, and slots, in a row each."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from llm_serving_engine.clients.operations import (
    LatencyState,
    Percentiles,
    SchedulerState,
    Slot,
    TenantState,
)
from llm_serving_engine.clients.requests import Priority
from llm_serving_engine.clients.top.formatting import bar, plain, seconds
from llm_serving_engine.clients.top.history import History
from llm_serving_engine.clients.top.overview import STYLES

CLASS_STYLES: dict[Priority, str] = {
    "critical": "red",
    "high": "yellow",
    "normal": "green",
    "low": "blue",
}
# What is left of 80 columns beside the numbers.
_BAR_WIDTH = 8
_PROGRESS_WIDTH = 10
_NAME_WIDTH = 16
_NAME_WIDTH_NARROW = 12
_NOBODY = "-"
# Headings of columns with words, and how wide those are at least.
_LEFT = {"": 0, "class": 8, "tenant": 8, "state": 7}
_NUMBER_WIDTH = 5


def classes(state: SchedulerState, wide: bool) -> Table:
    """Who waits, and what callers of each class felt."""
    table = _table(wide, "class", "waiting", "", "tokens", "done")
    bar_width = _BAR_WIDTH if wide else 0
    table.columns[2].width = bar_width
    for times in ("first token", "per token"):
        for percentile in ("p50", "p95", "p99"):
            short = times.split(" ")[0] if percentile == "p50" else ""
            table.add_column(f"{short} {percentile}".strip(), justify="right", no_wrap=True)
    latencies = {latency.priority: latency for latency in state.latencies}
    most = max((queue.tokens for queue in state.queues), default=0)
    for queue in state.queues:
        table.add_row(
            Text(queue.priority, style=CLASS_STYLES[queue.priority]),
            f"{queue.requests:,}",
            Text(bar(queue.tokens, most, bar_width), style=CLASS_STYLES[queue.priority]),
            f"{queue.tokens:,}",
            *_latency(latencies.get(queue.priority)),
        )
    requests = sum(queue.requests for queue in state.queues)
    tokens = sum(queue.tokens for queue in state.queues)
    table.add_row("all", f"{requests:,}", "", f"{tokens:,}", *_latency(latencies.get(None)))
    return table


def tenants(state: SchedulerState, history: History, rows: int | None, wide: bool) -> Table:
    """Who waits for how much, and who got how much."""
    table = _table(
        wide, "tenant", "waiting", "", "tokens", "running", "tokens/s", "in all", "ahead by"
    )
    everybody = len(state.tenants) + state.tenants_omitted
    shown = state.tenants
    if rows is not None and everybody > rows:
        shown = shown[: max(rows - 1, 0)]
    most = max((_tokens(tenant) for tenant in shown), default=0)
    for tenant in shown:
        rate = history.rate(tenant.tenant)
        table.add_row(
            _tenant(tenant.tenant, wide),
            f"{sum(queue.requests for queue in tenant.queues):,}",
            _stacked(tenant, most),
            f"{_tokens(tenant):,}",
            f"{tenant.running:,}",
            _NOBODY if rate is None else f"{rate:.1f}",
            f"{tenant.completion_tokens:,}",
            _NOBODY if tenant.service is None else f"{tenant.service:,.0f}",
        )
    if len(shown) < everybody:
        table.add_row(Text(f"and {everybody - len(shown)} more", style="dim"))
    return table


def slots(state: SchedulerState, rows: int | None, wide: bool) -> Table:
    """What each slot holds; where there is no room for all, those in use."""
    table = _table(wide, "slot", "state", "tenant", "class", "tokens")
    table.add_column("done", no_wrap=True)
    table.add_column("request", no_wrap=True)
    shown = list(state.slots)
    if rows is not None and len(shown) > rows:
        shown = [slot for slot in shown if slot.state != "free"]
    cut = shown if rows is None or len(shown) <= rows else shown[: max(rows - 1, 0)]
    for slot in cut:
        held = bool(slot.request_id)
        table.add_row(
            str(slot.index),
            Text(slot.state, style=STYLES[slot.state]),
            "" if slot.state == "free" else _tenant(slot.tenant, wide),
            Text(slot.priority, style=CLASS_STYLES[slot.priority]) if held else "",
            "" if slot.state == "free" else f"{slot.tokens:,}",
            _progress(slot),
            _request(slot.request_id),
        )
    if len(cut) < len(shown):
        table.add_row("", Text(f"and {len(shown) - len(cut)} more", style="dim"))
    return table


def _table(wide: bool, *headings: str) -> Table:
    """Names to the left, numbers to the right; as wide from one reading to the next."""
    table = Table(
        box=None, pad_edge=False, padding=(0, 2 if wide else 1, 0, 0), header_style="bold"
    )
    for heading in headings:
        width = _LEFT.get(heading)
        table.add_column(
            heading,
            justify="right" if width is None else "left",
            min_width=_NUMBER_WIDTH if width is None else width,
            no_wrap=True,
        )
    if headings[2] == "":
        table.columns[2].width = _BAR_WIDTH
    return table


def _latency(latency: LatencyState | None) -> list[str]:
    if latency is None:
        return ["0", *[_NOBODY] * 6]
    return [
        f"{latency.requests:,}",
        *_percentiles(latency.time_to_first_token),
        *_percentiles(latency.time_per_output_token),
    ]


def _percentiles(times: Percentiles | None) -> list[str]:
    if times is None:
        return [_NOBODY] * 3
    return [seconds(times.p50), seconds(times.p95), seconds(times.p99)]


def _tenant(name: str, wide: bool) -> Text:
    text = Text(plain(name) or "(none)", style="" if name else "dim")
    text.truncate(_NAME_WIDTH if wide else _NAME_WIDTH_NARROW, overflow="ellipsis")
    return text


def _request(name: str) -> Text:
    text = Text(plain(name))
    text.truncate(_NAME_WIDTH, overflow="ellipsis")
    return text


def _tokens(tenant: TenantState) -> int:
    return sum(queue.tokens for queue in tenant.queues)


def _stacked(tenant: TenantState, most: int) -> Text:
    """One bar, in the colours of the classes."""
    whole = bar(_tokens(tenant), most, _BAR_WIDTH)
    text, begin, tokens = Text(whole), 0, 0
    for queue in tenant.queues:
        tokens += queue.tokens
        end = round(len(whole) * tokens / _tokens(tenant))
        text.stylize(CLASS_STYLES[queue.priority], begin, end)
        begin = end
    return text


def _progress(slot: Slot) -> Text:
    """How much of the prompt is computed, or of the output produced."""
    if slot.state == "sharing":
        return Text(f"copies {slot.sharing_tokens:,}")
    if slot.state == "prefill":
        done, of = slot.tokens, slot.prompt_tokens + slot.completion_tokens
    elif slot.state == "decode":
        done, of = slot.completion_tokens, slot.max_tokens
    else:
        return Text("")
    filled = bar(done, of, _PROGRESS_WIDTH).ljust(_PROGRESS_WIDTH)
    return Text(filled, style=STYLES[slot.state]).append(f" {done:,}/{of:,}", style="default")
