"""Runs `top` from the first reading until the user leaves."""

from __future__ import annotations

import asyncio

from rich.console import Console, RenderableType
from rich.live import Live

from llm_serving_engine.clients.top.feed import Feed
from llm_serving_engine.clients.top.history import History
from llm_serving_engine.clients.top.keys import leaving
from llm_serving_engine.clients.top.page import page


async def show_once(feed: Feed, console: Console, address: str) -> None:
    """Print one reading. Raises ServingError."""
    state = await feed.read()
    console.print(page(state, History(), address, width=console.width), highlight=False)


async def show_live(feed: Feed, console: Console, address: str, interval: float) -> None:
    """Fill the terminal, and draw it again every `interval` seconds, until q or Ctrl-C.

    Raises:
        ServingError: There is no server, or it will not do what is asked.
    """
    await feed.read()
    stop = asyncio.Event()
    following = asyncio.create_task(feed.follow())
    following.add_done_callback(lambda task: stop.set())
    history = History()
    try:
        with leaving(stop), Live(console=console, screen=True, auto_refresh=False) as live:
            while not stop.is_set():
                live.update(_next(feed, history, console, address), refresh=True)
                await _wait(stop, interval)
    finally:
        following.cancel()
        await asyncio.wait([following])
    if not following.cancelled():
        following.result()


def _next(feed: Feed, history: History, console: Console, address: str) -> RenderableType:
    state = feed.state
    assert state is not None
    if feed.problem is None:
        history.add(state)
    else:
        history.forget()
    width, height = console.size
    return page(state, history, address, width=width, height=height, problem=feed.problem)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except asyncio.TimeoutError:
        return
