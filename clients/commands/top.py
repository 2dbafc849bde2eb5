"""`top`: what a running server's scheduler does."""

from __future__ import annotations

from typing import Annotated

import typer

from llm_serving_engine.clients.commands import options
from llm_serving_engine.clients.commands.failures import one_line_failures

PIPE_WIDTH = 160  # columns where no terminal limits them


def top(
    model: options.Model = None,
    interval: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds between two readings.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one reading, and exit.")] = False,
    address: options.Address = "127.0.0.1:50051",
) -> None:
    """Watch a server's scheduler: the queue, the slots, steps, and latencies.

    q or Ctrl-C leaves. In a pipe, it prints one reading.
    """
    with one_line_failures(address):
        import asyncio

        from rich.console import Console

        from llm_serving_engine.clients.aio import AsyncClient
        from llm_serving_engine.clients.top.feed import Feed
        from llm_serving_engine.clients.top.session import show_live, show_once

        console = Console()
        feed = Feed(lambda: AsyncClient(address), model or "", interval)
        if once or not console.is_terminal:
            if not console.is_terminal:
                console = Console(width=PIPE_WIDTH)
            asyncio.run(show_once(feed, console, address))
        else:
            asyncio.run(show_live(feed, console, address, interval))
