"""`bench`: put load on a running server and say what it gives."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from llm_serving_engine.clients.commands import bench_options, options
from llm_serving_engine.clients.commands.failures import fail, one_line_failures

if TYPE_CHECKING:
    from llm_serving_engine.clients.bench.report import Report
    from llm_serving_engine.clients.bench.run import OnProgress
    from llm_serving_engine.clients.bench.settings import Settings

PIPE_WIDTH = 160  # columns of the table where no terminal limits it


def bench(
    workload: bench_options.Workload = "throughput",
    clients: bench_options.Clients = None,
    prompt_words: bench_options.PromptWords = 64,
    max_tokens: bench_options.MaxTokens = 64,
    rounds: bench_options.Rounds = 3,
    streams: bench_options.Streams = 4,
    long_words: bench_options.LongWords = 900,
    prefix_words: bench_options.PrefixWords = 600,
    idle_requests: bench_options.IdleRequests = 40,
    seconds: bench_options.Seconds = None,
    requests: bench_options.Requests = 200,
    ratio: bench_options.Ratio = 10,
    seed: bench_options.Seed = 1,
    json_file: bench_options.JsonFile = None,
    model: options.Model = None,
    address: options.Address = "127.0.0.1:50051",
    tenant: options.Tenant = None,
    timeout: options.Timeout = None,
) -> None:
    """Measure a running server under load.

    Every answer has exactly the tokens asked for, at temperature 0 except in
    determinism, and no prompt shares a prefix with another where the workload
    does not say so, nor with those of an earlier run.
    """
    counts = bench_options.parse_clients(clients)
    with one_line_failures(address):
        from dataclasses import asdict

        from llm_serving_engine.clients.bench.settings import Settings

        settings = Settings(
            clients=counts,
            prompt_words=prompt_words,
            max_tokens=max_tokens,
            rounds=rounds,
            streams=streams,
            long_words=long_words,
            prefix_words=prefix_words,
            idle_requests=idle_requests,
            seconds=seconds,
            requests=requests,
            ratio=ratio,
            seed=seed,
        )
        settings, report = _run(workload, settings, address, tenant, timeout, model or "")
        if json_file is not None:
            found = {
                "workload": workload,
                "settings": asdict(settings),
                "results": report.results,
            }
            json_file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        _show(report)


def _run(
    workload: str,
    settings: Settings,
    address: str,
    tenant: str | None,
    timeout: float | None,
    model: str,
) -> tuple[Settings, Report]:
    import asyncio
    import uuid
    from dataclasses import replace

    from rich.console import Console
    from rich.progress import Progress

    from llm_serving_engine.clients.bench.grpc_target import GrpcTarget
    from llm_serving_engine.clients.bench.run import run
    from llm_serving_engine.clients.bench.target import TargetError
    from llm_serving_engine.clients.bench.workloads import WORKLOADS

    async def measure(on_progress: OnProgress) -> tuple[Settings, Report]:
        salt = uuid.uuid4().hex
        async with GrpcTarget(
            address, cache_salt=salt, tenant=tenant, model=model, timeout=timeout
        ) as target:
            sized = replace(settings, slots=await target.slots())
            return sized, await run(WORKLOADS[workload], sized, target, on_progress)

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
    failures = [f"requests failed: {counts(report.errors)}"] if report.errors else []
    if report.failure:
        failures.append(report.failure)
    if failures:
        raise fail("; ".join(failures))
