"""`bench`: put load on a running server and say what it gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llm_serving_engine.clients.commands import options
from llm_serving_engine.clients.commands.failures import fail, one_line_failures

if TYPE_CHECKING:
    from llm_serving_engine.clients.bench.report import Report
    from llm_serving_engine.clients.bench.run import OnProgress
    from llm_serving_engine.clients.bench.settings import Settings

PIPE_WIDTH = 160  # columns of the table where no terminal limits it


def bench(
    workload: Annotated[
        Literal["throughput", "interference"],
        typer.Option(help="Many clients at once, or a long prompt among running streams."),
    ] = "throughput",
    clients: Annotated[
        str, typer.Option(metavar="N,N,...", help="throughput: numbers of clients to compare.")
    ] = "1,4,16",
    prompt_words: Annotated[int, typer.Option(min=1, help="Words of a prompt.")] = 64,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="throughput: tokens of each answer, exactly.")
    ] = 64,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often each measurement is made, in turn.")
    ] = 3,
    streams: Annotated[int, typer.Option(min=1, help="interference: running streams.")] = 4,
    long_words: Annotated[
        int, typer.Option(min=1, help="interference: words of the long prompt.")
    ] = 900,
    seed: Annotated[int, typer.Option(help="Of the prompts.")] = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the results to this file too.")
    ] = None,
    model: options.Model = None,
    address: options.Address = "127.0.0.1:50051",
    tenant: options.Tenant = None,
    timeout: options.Timeout = None,
) -> None:
    """Measure a running server under load, at temperature 0.

    Every answer has exactly the tokens asked for, and no prompt shares a
    prefix with another or with those of an earlier run.
    """
    counts = _parse_clients(clients)
    with one_line_failures(address):
        from dataclasses import asdict

        from llm_serving_engine.clients.bench.settings import Settings

        settings = Settings(counts, prompt_words, max_tokens, rounds, streams, long_words, seed)
        report = _run(workload, settings, address, tenant, timeout, model or "")
        if json_file is not None:
            found = {
                "workload": workload,
                "settings": asdict(settings),
                "results": report.results,
            }
            json_file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        _show(report)


def _parse_clients(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(word) for word in text.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise typer.BadParameter(f"--clients: {text!r} is not numbers such as 1,4,16")
    return counts


def _run(
    workload: str,
    settings: Settings,
    address: str,
    tenant: str | None,
    timeout: float | None,
    model: str,
) -> Report:
    import asyncio
    import uuid

    from rich.console import Console
    from rich.progress import Progress

    from llm_serving_engine.clients.aio import AsyncClient
    from llm_serving_engine.clients.bench.grpc_target import GrpcTarget
    from llm_serving_engine.clients.bench.run import run
    from llm_serving_engine.clients.bench.target import TargetError
    from llm_serving_engine.clients.bench.workloads import WORKLOADS

    async def measure(on_progress: OnProgress) -> Report:
        async with AsyncClient(address, tenant=tenant) as client:
            target = GrpcTarget(client, cache_salt=uuid.uuid4().hex, model=model, timeout=timeout)
            return await run(WORKLOADS[workload], settings, target, on_progress)

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(workload, total=None)
        try:
            return asyncio.run(
                measure(lambda ended, total: progress.update(bar, completed=ended, total=total))
            )
        except TargetError as error:
            raise fail(f"the warm-up failed: {error}") from None


def _show(report: Report) -> None:
    from rich.console import Console

    from llm_serving_engine.clients.bench.report import counts, table

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    console.print(table(report))
    for note in report.notes:
        console.print(note, highlight=False)
    if report.errors:
        raise fail(f"requests failed: {counts(report.errors)}")
