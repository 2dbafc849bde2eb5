"""`tune`: measure a model on this machine, and write a configuration for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llm_serving_engine.backends.models.info import ModelInfo
    from llm_serving_engine.backends.models.reference import ModelReference
    from llm_serving_engine.backends.tuning.reading import Mix
    from llm_serving_engine.backends.tuning.search import Tuning
    from llm_serving_engine.server.commands.tune_report import Report

EXAMPLE = (
    "Example: llm-serving-engine tune builtin --output tuned.toml && "
    "llm-serving-engine serve --config tuned.toml"
)
STDOUT = Path("-")
# Enough to load and measure the defaults of a small model on a slow machine.
SECONDS_MIN = 20
# Runners that are in the middle of a step are given this long to end.
END_SECONDS = 6.0
# How long to watch what others take of the processors.
WATCH_SECONDS = 1.0

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help=r"builtin, a GGUF file, hf:OWNER/REPO\[/FILE], hf:OWNER/REPO:QUANT, https://...",
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write; - for stdout.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]
Seconds = Annotated[
    float,
    typer.Option(
        min=SECONDS_MIN,
        help="Time limit, without the download of the model. In less time, less is measured.",
    ),
]
Clients = Annotated[
    int, typer.Option(min=1, max=1024, help="Number of concurrent clients to tune for.")
]
Context = Annotated[
    int | None,
    typer.Option(
        min=1, help="Tokens of one request, prompt plus output. Default: chosen from the memory."
    ),
]
MixName = Annotated[
    str,
    typer.Option(
        "--mix",
        help="Requests to tune for: chat (256 prompt tokens, 128 output tokens), "
        "documents (1,536 and 64), or writing (64 and 512).",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command(epilog=EXAMPLE)(tune)


def tune(
    model: ModelArgument,
    output: Output = Path("tuned.toml"),
    force: Force = False,
    seconds: Seconds = 110,
    clients: Clients = 16,
    context: Context = None,
    mix: MixName = "chat",
) -> None:
    """Measure a model on this machine, and write a configuration for it.

    Threads, kernels, sequences, cache type, and prefill chunk are measured in
    alternation with their defaults, which stay unless another value is clearly
    faster. The file has the gain of each choice. Let nothing else run meanwhile.
    """
    from llm_serving_engine.backends.backend import LoadError
    from llm_serving_engine.backends.models.errors import ModelError
    from llm_serving_engine.backends.tuning.search import TuningError
    from llm_serving_engine.clients.commands.failures import failing_in_one_line

    with failing_in_one_line(LoadError, ModelError, TuningError, ValueError):
        _check_output(output, force)
        report = _make_report(model, seconds, clients, context, _mix(mix))
        _write(report, output)


def _check_output(output: Path, force: bool) -> None:
    """Find out before minutes of measuring. Raises ValueError, or ends the command."""
    from llm_serving_engine.clients.commands.failures import check_writable

    if output == STDOUT:
        return
    if output.exists() and not force:
        raise ValueError(f"{output} exists: use --force to overwrite it")
    check_writable(output)


def _mix(name: str) -> Mix:
    """The mix of a name. Raises ValueError."""
    from llm_serving_engine.backends.tuning.reading import MIXES

    if name not in MIXES:
        raise ValueError(f"--mix is {name!r}; it can be one of: {', '.join(MIXES)}")
    return MIXES[name]


def _make_report(model: str, seconds: float, clients: int, context: int | None, mix: Mix) -> Report:
    import datetime

    import psutil

    from llm_serving_engine.backends.models.info import ModelInfo
    from llm_serving_engine.backends.models.reference import parse_reference
    from llm_serving_engine.backends.models.resolve import resolve
    from llm_serving_engine.backends.tuning.remembered import remember_kernels
    from llm_serving_engine.server.commands.tune_report import Report

    reference = parse_reference(model)
    path = resolve(reference, progress=True)
    info = ModelInfo.read(path)
    busy = psutil.cpu_percent(WATCH_SECONDS) / 100
    tuning = _search(path, info, seconds - WATCH_SECONDS - END_SECONDS, clients, context, mix)
    remember_kernels(path, tuning)
    return Report(tuning, info, _lasting(reference), clients, busy, datetime.date.today())


def _search(
    path: Path, info: ModelInfo, seconds: float, clients: int, context: int | None, mix: Mix
) -> Tuning:
    import asyncio

    from rich.console import Console

    from llm_serving_engine.backends.llama_cpp.settings import Settings
    from llm_serving_engine.backends.tuning import candidates
    from llm_serving_engine.backends.tuning.contender import RunnerContender
    from llm_serving_engine.backends.tuning.search import Budget, Search

    def make_contender(settings: Settings) -> RunnerContender:
        return RunnerContender(str(path), settings, clients, info.vocabulary_size, mix)

    budget = Budget(seconds)
    console = Console(stderr=True)
    with console.status("looking at the machine") as status:

        def show(text: str) -> None:
            status.update(f"{text}; {budget.left:.0f} s left at most")

        settings = candidates.plan(info, clients, context)
        return asyncio.run(Search(info, settings, clients, make_contender, budget, show).run())


def _lasting(reference: ModelReference) -> str:
    """The reference in words that mean the same in any folder."""
    from llm_serving_engine.backends.models.reference import FileModel

    if isinstance(reference, FileModel):
        return str(reference.path.absolute())
    return str(reference)


def _write(report: Report, output: Path) -> None:
    from rich.console import Console

    from llm_serving_engine.server.commands.tune_report import print_report

    if output == STDOUT:
        typer.echo(report.toml(), nl=False)
        console = Console(stderr=True)
        if console.is_terminal:
            print_report(report, console)
        return
    print_report(report, Console())
    output.write_text(report.toml(), encoding="utf-8")
    typer.echo(f"written to {output}; try: llm-serving-engine serve --config {output}")
