"""`simulate`: replay a trace through the scheduler, under one policy or several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_serving_engine.scheduler.cost import Costs
    from llm_serving_engine.server.simulator.recorder import Recorder
    from llm_serving_engine.server.simulator.replay import Replay, ReplaySettings
    from llm_serving_engine.server.simulator.trace import TraceRecord

EXAMPLE = (
    "Example: llm-serving-engine simulate --example trace.jsonl && "
    "llm-serving-engine simulate --trace trace.jsonl --policy fair,first_come "
    "--picture trace.svg"
)


Trace = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The trace, as JSON lines, such as trace.jsonl."),
]
Policies = Annotated[
    str,
    typer.Option(
        metavar="POLICIES",
        help="With commas between: fair, first_come, shortest_job, or import paths such as "
        "my.module:Class, also from here.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A server's TOML file, such as server.toml."),
]
Slots = Annotated[
    int | None, typer.Option(min=1, help="Sequences at once, such as 16. Default: 8.")
]
Context = Annotated[
    int | None, typer.Option(min=2, help="Tokens of each, such as 2048. Default: 4096.")
]
StepTarget = Annotated[
    float | None,
    typer.Option(min=0.001, help="Target of a step, such as 100. Default: the configured."),
]
Cost = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="What steps cost, such as trace.cost.json, which a recording server writes. "
        "Default: a small model on two cores.",
    ),
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write all numbers, such as to result.json."),
]
Picture = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw the result, such as to result.svg."),
]
Timeline = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write what each request did when, such as to timeline.json; the console draws it.",
    ),
]
Example = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a trace to try, such as trace.jsonl."),
]


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command(epilog=EXAMPLE)(simulate)


def simulate(
    trace: Trace = None,
    policy: Policies = "fair",
    config: Config = None,
    slots: Slots = None,
    context: Context = None,
    step_target_ms: StepTarget = None,
    cost: Cost = None,
    json_file: JsonFile = None,
    picture: Picture = None,
    timeline: Timeline = None,
    example: Example = None,
) -> None:
    """Replay a trace through the scheduler, to see what each policy would have made of it.

    Nothing is served, and time is virtual: a minute of requests takes a
    second or so.
    """
    if (trace is None) is (example is None):
        raise typer.BadParameter("one of --trace and --example must be given")
    from llm_serving_engine.clients.commands.failures import failing_in_one_line

    with failing_in_one_line(ValueError, SyntaxError):
        if example is not None:
            _write_example(example)
            return
        assert trace is not None
        from llm_serving_engine.server.simulator.recorder import Recorder
        from llm_serving_engine.server.simulator.trace import read_trace

        settings = _settings(config, slots, context, step_target_ms, cost)
        records = read_trace(trace)
        recorder = Recorder(len(records)) if timeline is not None else None
        replays = _replay_all(records, _names(policy), settings, recorder)
        _show(replays)
        if json_file is not None:
            _write_json(json_file, replays, settings)
        if picture is not None:
            from llm_serving_engine.server.commands.simulate_picture import draw

            picture.write_text(draw(replays), encoding="utf-8")
        if timeline is not None and recorder is not None:
            timeline.write_text(recorder.text(), encoding="utf-8")


def _write_example(path: Path) -> None:
    from llm_serving_engine.server.simulator.trace import write_trace
    from llm_serving_engine.server.simulator.trace_example import example_trace

    records = example_trace()
    write_trace(path, records)
    typer.echo(f"{len(records)} requests; try: llm-serving-engine simulate --trace {path}")


def _settings(
    config_file: Path | None,
    slots: int | None,
    context: int | None,
    step_target_ms: float | None,
    cost_file: Path | None,
) -> ReplaySettings:
    """Flags before the server's file, and that before what is usual."""
    from dataclasses import replace

    from llm_serving_engine.server.simulator.replay import ReplaySettings

    settings = ReplaySettings()
    if config_file is not None:
        from llm_serving_engine.server.config import ConfigError, load_config

        try:
            server = load_config(config_file)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        runner = server.model.runner
        settings = ReplaySettings(
            slots=runner.sequences or settings.slots,
            context=runner.context_per_sequence or settings.context,
            config=server.scheduler,
        )
    scheduler = settings.config
    if step_target_ms is not None:
        scheduler = replace(scheduler, step_target_seconds=step_target_ms / 1000)
    return replace(
        settings,
        slots=slots or settings.slots,
        context=context or settings.context,
        costs=settings.costs if cost_file is None else _costs(cost_file),
        config=scheduler,
    )


def _costs(path: Path) -> Costs:
    """The costs of a file. Raises ValueError where they make no sense."""
    import json
    import math

    from llm_serving_engine.scheduler.cost import Costs

    try:
        costs = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{path} is not JSON") from None
    names = Costs._fields
    if not isinstance(costs, dict) or set(costs) != set(names):
        raise ValueError(f"{path} is not an object of {', '.join(names)}")
    for name, seconds in costs.items():
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not number or not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"{path}: {name} is not a number of seconds")
    if not (costs["row"] and costs["chunk_token"]):
        raise ValueError(f"{path}: steps that take no time never end")
    return Costs(**costs)


def _names(policies: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in policies.split(",") if name.strip()))
    if not names:
        raise ValueError("no policy is given")
    return names


def _replay_all(
    records: Sequence[TraceRecord],
    names: list[str],
    settings: ReplaySettings,
    recorder: Recorder | None,
) -> list[Replay]:
    import os
    import sys

    from rich.console import Console

    from llm_serving_engine.scheduler.policy import load_policy
    from llm_serving_engine.server.simulator.replay import replay

    sys.path.insert(0, os.getcwd())  # for policies that are tried from where they are written
    for name in names:
        load_policy(name, settings.config)
    console, replays = Console(stderr=True), []
    for name in names:
        with console.status(f"replaying {len(records)} requests under {name}"):
            observer = None if recorder is None else recorder.begin(name)
            replays.append(replay(records, name, settings, observer))
    return replays


def _show(replays: list[Replay]) -> None:
    from rich.console import Console

    from llm_serving_engine.server.commands.simulate_tables import NOTE, class_table, policy_table

    console = Console()
    for one in replays:
        console.print(class_table(one))
    console.print(policy_table(replays))
    console.print(NOTE, style="dim")


def _write_json(path: Path, replays: list[Replay], settings: ReplaySettings) -> None:
    import json
    from dataclasses import asdict

    from llm_serving_engine.server.simulator.replay_report import as_json

    result = {
        "slots": settings.slots,
        "context": settings.context,
        "costs": settings.costs._asdict(),
        "scheduler": asdict(settings.config),
        "policies": [as_json(replay) for replay in replays],
    }
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
