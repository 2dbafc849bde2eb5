"""`bench`: measure a running server under load."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llm_serving_engine.clients.commands import bench_options, options
from llm_serving_engine.clients.commands.failures import check_writable, fail, one_line_failures

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from llm_serving_engine.clients.bench.outcome import Outcome
    from llm_serving_engine.clients.bench.session import Servers
    from llm_serving_engine.clients.bench.settings import Settings


def bench(
    workload: bench_options.Workload = "steady",
    clients: bench_options.Clients = None,
    prompt_words: bench_options.PromptWords = 64,
    max_tokens: bench_options.MaxTokens = 64,
    rounds: bench_options.Rounds = 5,
    streams: bench_options.Streams = 4,
    long_words: bench_options.LongWords = 900,
    prefix_words: bench_options.PrefixWords = 600,
    idle_requests: bench_options.IdleRequests = 40,
    seconds: bench_options.Seconds = None,
    requests: bench_options.Requests = 200,
    ratio: bench_options.Ratio = 10,
    conversations: bench_options.Conversations = 8,
    turns: bench_options.Turns = 6,
    rate: bench_options.Rate = None,
    deadline: bench_options.Deadline = None,
    seed: bench_options.Seed = 1,
    json_file: bench_options.JsonFile = None,
    html_file: bench_options.HtmlFile = None,
    model: options.Model = None,
    address: bench_options.Address = "127.0.0.1:50051",
    against: bench_options.Against = None,
    tenant: options.Tenant = None,
    timeout: options.Timeout = None,
) -> None:
    """Measure a running server under load, alone or against another one.

    Every answer has exactly --max-tokens tokens, at temperature 0, unless the
    workload says otherwise. No prompt shares a prefix with another one, or with
    one of an earlier run, unless the workload is about shared prefixes.
    """
    counts = bench_options.parse_clients(clients)
    _check_files(json_file, html_file)
    with one_line_failures(address):
        from llm_serving_engine.clients.bench.session import Servers
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
            conversations=conversations,
            turns=turns,
            rate=rate,
            deadline=deadline,
            seed=seed,
        )
        addresses = (address,) if against is None else (address, against)
        servers = Servers(addresses, tenant, model or "", timeout)
        _finish(_measure(workload, settings, servers), json_file, html_file)


def _measure(workload: str, settings: Settings, servers: Servers) -> Outcome:
    from rich.console import Console
    from rich.progress import Progress

    from llm_serving_engine.clients.bench.session import session
    from llm_serving_engine.clients.bench.target import TargetError

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(workload, total=None)

        def show(ended: int, total: int, what: str) -> None:
            progress.update(bar, completed=ended, total=total, description=f"{workload}: {what}")

        try:
            return _run(session(workload, settings, servers, sys.argv, show))
        except TargetError as error:
            raise fail(f"nothing was measured: {error}") from None


def _run(measuring: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Run it on the event loop that takes the least from the servers on the same machine."""
    try:
        import uvloop
    except ImportError:
        import asyncio

        return asyncio.run(measuring)
    return uvloop.run(measuring)


def _finish(outcome: Outcome, json_file: Path | None, html_file: Path | None) -> None:
    """Show the tables, write the files, and fail where the run did."""
    import json

    from llm_serving_engine.clients.bench.show import show

    show(outcome)
    if json_file is not None:
        json_file.write_text(json.dumps(outcome.json(), indent=2) + "\n", encoding="utf-8")
    if html_file is not None:
        from llm_serving_engine.clients.bench.html.page import page

        html_file.write_text(page(outcome), encoding="utf-8")
    if outcome.failure:
        raise fail(outcome.failure)


def _check_files(json_file: Path | None, html_file: Path | None) -> None:
    """Fail before the run where a report could not be made or written after it."""
    from importlib.util import find_spec

    for file in filter(None, (json_file, html_file)):
        check_writable(file)
    if html_file is not None and find_spec("jinja2") is None:
        raise fail("--html needs jinja2: run `pip install '.[bench]'` in the checkout")
