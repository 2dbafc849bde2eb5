"""Shows how near `simulate` comes to a live server, as a table and as a picture.

    .venv/bin/python tests/benchmarks/predicted.py record FOLDER [--model MODEL]   about 6 minutes
    .venv/bin/python tests/benchmarks/predicted.py show FOLDER PICTURE.svg

Each workload of `bench` has a server of its own, which records it. Each trace is replayed
twice: on the server as it was recorded with it, and on one that was recorded before, while
other requests ran. Let nothing else run on the machine.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))

from serve_process import serve_process

from llm_serving_engine.clients.bench.html.axis import Axis, by_ratios
from llm_serving_engine.server.commands.simulate_chart import shares
from llm_serving_engine.server.commands.svg import (
    PANEL_HEIGHT,
    PANEL_WIDTH,
    Curve,
    content,
    curves,
    page,
    panel,
    text,
)
from llm_serving_engine.server.simulator.recorded import recorded_outcomes
from llm_serving_engine.server.simulator.replay import Outcome, replay
from llm_serving_engine.server.simulator.replay_report import Summary, summary
from llm_serving_engine.server.simulator.replay_settings import read_settings, server_path
from llm_serving_engine.server.simulator.trace import read_trace

COMMAND = Path(sys.executable).with_name("llm-serving-engine")
# What the other server's costs are learned from.
OTHER = ("chat --rounds 1 --conversations 4 --seed 7", "steady --clients 16 --rounds 1 --seed 7")
# One round each where clients wait for answers: the next round's arrivals are fixed in the trace,
# and a slower replay has not done with the round before. Else long ones: with 50 to 70 requests
# the p90 is five waits, which depend on how arrivals meet.
WORKLOADS = {
    "steady": "steady --clients 16 --rounds 1",
    "burst": "burst --clients 64 --rounds 1",
    "churn": "churn --clients 8 --rounds 5",
    "chat": "chat --turns 14 --rounds 1",
    # No deadline matters: requests come at random, and none is refused.
    "arrivals": "overload --rate 2.5 --deadline 500 --seconds 100",
}
COLOURS = {"recorded": "#1f2933", "replayed": "#2f6fde", "other costs": "#e08a00"}
COLUMN, ROW, LEFT, TOP = 560, 310, 64, 96


class Found(NamedTuple):
    """A workload's requests: as recorded, replayed, and replayed on the other server."""

    outcomes: tuple[list[Outcome], ...]
    summaries: tuple[Summary, ...]


def record(folder: Path, model: str) -> None:
    """Record all workloads."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, workloads in {"other": OTHER, **{n: (w,) for n, w in WORKLOADS.items()}}.items():
        env = {"LLM_SERVING_ENGINE_TRACE_FILE": str(folder / f"{name}.jsonl")}
        with serve_process("--model", model, quiet=True, env=env) as server:
            for workload in workloads:
                arguments = ("--address", server.address, "--workload", *workload.split())
                subprocess.run([COMMAND, "bench", *arguments], check=True)
            # It writes the other file when it ends.
            server.signal(signal.SIGTERM)
            server.process.wait()


def find(folder: Path, name: str) -> Found:
    """What the server took for a workload, and what the replays take."""
    trace = folder / f"{name}.jsonl"
    records = read_trace(trace)
    recorded = recorded_outcomes(records)
    servers = (server_path(trace), folder / "other.server.json")
    replays = [replay(records, "fair", read_settings(server)) for server in servers]
    begin = records[0].at
    makespan = max(r.at + (r.seconds or 0.0) for r in records) - begin
    return Found(
        (recorded, *(list(one.outcomes) for one in replays)),
        (
            summary(recorded, makespan),
            *(summary(one.outcomes, one.makespan) for one in replays),
        ),
    )


def row(name: str, found: Found) -> str:
    """A row of the table in docs/performance.md."""
    cells = []
    for figure in ("ttft_p50", "ttft_p90", "output_tokens_per_second"):
        recorded, *replayed = (getattr(one, figure) or 0.0 for one in found.summaries)
        ratios = ", ".join(f"{value / recorded:.2f}" for value in replayed)
        cells.append(f"{recorded:.3g}: {ratios}")
    return f"| {name} | {len(found.outcomes[0])} | {' | '.join(cells)} |"


def draw(all_found: dict[str, Found]) -> str:
    """The picture: a panel for each workload, with the time to the first token."""
    rows = -(-len(all_found) // 2)
    root = page(2 * COLUMN + LEFT, TOP + rows * ROW)
    title = "Time to the first token, recorded and replayed"
    text(root, LEFT, 34, title, size=18, bold=True)
    for number, (name, found) in enumerate(all_found.items()):
        seconds = [o.first_token_seconds or 0.0 for part in found.outcomes for o in part]
        across, up = by_ratios(seconds, PANEL_WIDTH), Axis(0, 1, PANEL_HEIGHT)
        place = (LEFT + number % 2 * COLUMN, TOP + number // 2 * ROW)
        text(root, place[0], place[1] - 24, name, size=15, bold=True)
        grid = panel(root, place, across, up, "", "part of requests")
        lines = [
            Curve(kind, colour, shares(part), "none" if kind == "recorded" else "5 3")
            for (kind, colour), part in zip(COLOURS.items(), found.outcomes, strict=True)
        ]
        curves(grid, lines, across, up, stairs=True)
    return content(root)


def main() -> None:
    """Record, or print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("record", "show"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("picture", type=Path, nargs="?")
    parser.add_argument("--model", default="builtin")
    options = parser.parse_args()
    if options.what == "record":
        record(options.folder, options.model)
        return
    all_found = {name: find(options.folder, name) for name in WORKLOADS}
    print("\n".join(row(name, found) for name, found in all_found.items()))
    if options.picture is not None:
        options.picture.write_text(draw(all_found), encoding="utf-8")


if __name__ == "__main__":
    main()
