"""`simulate`: replay a trace through the scheduler, under one policy or several."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_serving_engine.server.simulator.replay import Replay
    from llm_serving_engine.server.simulator.replay_report import Summary
    from llm_serving_engine.server.simulator.replay_settings import ReplaySettings
    from llm_serving_engine.server.simulator.timeline_recorder import TimelineRecorder
    from llm_serving_engine.server.simulator.trace import TraceRecord

EXAMPLE = (
    "Example: llm-serving-engine simulate --example trace.jsonl && "
    "llm-serving-engine simulate --trace trace.jsonl --policy fair,first_come "
    "--picture trace.svg"
)


Trace = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The trace to replay (JSON lines)."),
]
Policies = Annotated[
    str | None,
    typer.Option(
        metavar="POLICIES",
        help="The policies to compare, separated by commas: fair, first_come, shortest_job, or "
        "import paths module:Class, also of modules in this folder. Default: the configuration's, "
        "or the recorded server's.",
    ),
]
Server = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The recorded server, which recording writes beside the trace as NAME.server.json. "
        "Default: that file, else 8 slots with a small model on two cores.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="A configuration to try, in TOML, instead of the recorded server's."
    ),
]
Slots = Annotated[
    int | None,
    typer.Option(min=1, max=1024, help="Number of slots. Default: the server's."),
]
Context = Annotated[
    int | None, typer.Option(min=2, help="Tokens of each slot. Default: the server's.")
]
StepTarget = Annotated[
    float | None,
    typer.Option(min=0.001, help="The step target. Default: the server's."),
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write all figures to this file."),
]
Picture = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw the result to this file, as SVG."),
]
Timeline = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write the timeline of each request to this file, for the console.",
    ),
]
Example = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write an example trace to this file, and exit."),
]


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command(epilog=EXAMPLE)(simulate)


def simulate(
    trace: Trace = None,
    policy: Policies = None,
    server: Server = None,
    config: Config = None,
    slots: Slots = None,
    context: Context = None,
    step_target_ms: StepTarget = None,
    json_file: JsonFile = None,
    picture: Picture = None,
    timeline: Timeline = None,
    example: Example = None,
) -> None:
    """Replay a recorded trace through the scheduler, with one policy or several.

    No model runs, and time is virtual: a minute of requests takes about a
    second.
    """
    if (trace is None) is (example is None):
        raise typer.BadParameter("give either --trace or --example")
    from llm_serving_engine.clients.commands.failures import check_writable, failing_in_one_line

    with failing_in_one_line(ValueError, SyntaxError):
        for file in filter(None, (json_file, picture, timeline, example)):
            check_writable(file)
        if example is not None:
            _write_example(example)
            return
        assert trace is not None
        sys.path.insert(0, os.getcwd())  # for policies that are tried from where they are written
        from llm_serving_engine.server.simulator.recorded import recorded_summary
        from llm_serving_engine.server.simulator.timeline_recorder import TimelineRecorder
        from llm_serving_engine.server.simulator.trace import read_trace

        settings = _settings(_server(server, trace), config, slots, context, step_target_ms)
        names = _names(settings.config.policy if policy is None else policy)
        records = read_trace(trace)
        recorder = TimelineRecorder(len(records)) if timeline is not None else None
        recorded = recorded_summary(records)
        replays = _replay_all(records, names, settings, recorder)
        _show(replays, recorded)
        if json_file is not None:
            _write_json(json_file, replays, settings, recorded)
        if picture is not None:
            from llm_serving_engine.server.commands.simulate_chart import draw

            picture.write_text(draw(replays), encoding="utf-8")
        if timeline is not None and recorder is not None:
            timeline.write_text(recorder.text(), encoding="utf-8")


def _write_example(path: Path) -> None:
    from llm_serving_engine.server.simulator.trace import write_trace
    from llm_serving_engine.server.simulator.trace_example import example_trace

    records = example_trace()
    write_trace(path, records)
    typer.echo(f"{len(records)} requests; try: llm-serving-engine simulate --trace {path}")


def _server(file: Path | None, trace: Path) -> ReplaySettings:
    from llm_serving_engine.server.simulator.replay_settings import (
        ReplaySettings,
        read_settings,
        server_path,
    )

    beside = server_path(trace)
    if file is None and not beside.exists():
        return ReplaySettings()
    return read_settings(file or beside)


def _settings(
    server: ReplaySettings,
    config_file: Path | None,
    slots: int | None,
    context: int | None,
    step_target_ms: float | None,
) -> ReplaySettings:
    """Flags before the configuration, and that before the server."""
    from dataclasses import replace

    can, scheduler = server.capabilities, server.config
    if config_file is not None:
        from llm_serving_engine.server.config import ConfigError, load_config

        try:
            config = load_config(config_file)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        scheduler, runner = config.scheduler, config.model.runner
        slots, context = slots or runner.sequences, context or runner.context_per_sequence
    if step_target_ms is not None:
        scheduler = replace(scheduler, step_target_seconds=step_target_ms / 1000)
    can = can._replace(slots=slots or can.slots, context=context or can.context)
    return replace(server, capabilities=can, config=scheduler)


def _names(policies: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in policies.split(",") if name.strip()))
    if not names:
        raise ValueError("no policy is given")
    return names


def _replay_all(
    records: Sequence[TraceRecord],
    names: list[str],
    settings: ReplaySettings,
    recorder: TimelineRecorder | None,
) -> list[Replay]:
    from rich.console import Console

    from llm_serving_engine.scheduler.policy import load_policy
    from llm_serving_engine.server.simulator.replay import replay

    for name in names:
        load_policy(name, settings.config)
    console, replays = Console(stderr=True), []
    for name in names:
        with console.status(f"replaying {len(records)} requests under {name}"):
            observer = None if recorder is None else recorder.begin(name)
            replays.append(replay(records, name, settings, observer))
    return replays


def _show(replays: list[Replay], recorded: Summary | None) -> None:
    from rich.console import Console

    from llm_serving_engine.server.commands.simulate_tables import (
        NOTE,
        class_table,
        policy_table,
        recorded_table,
    )

    console = Console()
    for one in replays:
        console.print(class_table(one))
    console.print(policy_table(replays))
    if recorded is not None:
        console.print(recorded_table(recorded, replays))
    console.print(NOTE, style="dim")


def _write_json(
    path: Path, replays: list[Replay], settings: ReplaySettings, recorded: Summary | None
) -> None:
    import json
    from dataclasses import asdict

    from llm_serving_engine.server.simulator.replay_report import as_json

    result = {
        "server": settings.content(),
        "recorded": None if recorded is None else asdict(recorded),
        "policies": [as_json(replay) for replay in replays],
    }
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
