"""How `top` finds the server again, and how one leaves it."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import re
import signal
import sys
import termios
from typing import Any

import grpc
import pytest
import typer
from google.rpc import error_details_pb2
from rich.console import Console
from typer.testing import CliRunner

from llm_serving_engine.clients import AsyncClient, ModelNotFound
from llm_serving_engine.clients.commands import register
from llm_serving_engine.clients.top.feed import Feed
from llm_serving_engine.clients.top.keys import leaving
from llm_serving_engine.clients.top.session import show_live


class Pauses:
    """Waits between attempts, without waiting; remembers what was wrong."""

    def __init__(self):
        self.problems = []
        self.feed: Any = None

    async def __call__(self):
        self.problems.append(self.feed.problem)


def feed_of(server, pauses):
    pauses.feed = Feed(lambda: AsyncClient(server.address), "tiny", 0.1, pauses)
    return pauses.feed


async def well(feed):
    """What the server has sent is on its way: wait until it is here."""
    while feed.problem is not None:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_a_feed_finds_the_server_again(aio_server):
    hanging = asyncio.Event()
    aio_server.on_hang = hanging.set
    aio_server.watches_end = 1
    again = error_details_pb2.RetryInfo()
    aio_server.failures = [aio_server.fail(grpc.StatusCode.UNAVAILABLE, "loading", again)]
    pauses = Pauses()
    feed = feed_of(aio_server, pauses)
    following = asyncio.create_task(feed.follow())
    await hanging.wait()
    await well(feed)
    assert pauses.problems == ["the server has shut down", "loading"]
    assert feed.state.model == "tiny"
    assert aio_server.watched.model == "tiny"
    assert aio_server.watched.interval.ToMilliseconds() == 100
    following.cancel()
    await asyncio.wait([following])


async def test_a_feed_connects_anew(aio_server):
    hanging = asyncio.Event()
    aio_server.on_hang = hanging.set
    addresses = ["127.0.0.1:1", "127.0.0.1:1", aio_server.address]
    pauses = Pauses()
    pauses.feed = Feed(lambda: AsyncClient(addresses.pop(0)), "", 0.1, pauses)
    following = asyncio.create_task(pauses.feed.follow())
    await hanging.wait()
    await well(pauses.feed)
    assert len(pauses.problems) == 2
    assert all("connect" in problem for problem in pauses.problems)
    following.cancel()
    await asyncio.wait([following])


async def test_a_feed_gives_up_where_trying_again_is_no_use(aio_server):
    aio_server.failures = [aio_server.fail(grpc.StatusCode.NOT_FOUND, "no model")]
    with pytest.raises(ModelNotFound):
        await feed_of(aio_server, Pauses()).follow()


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=100, height=40)


async def test_the_screen_until_ctrl_c(aio_server):
    hanging = asyncio.Event()
    aio_server.on_hang = hanging.set
    console = terminal()
    feed = feed_of(aio_server, Pauses())
    showing = asyncio.create_task(show_live(feed, console, aio_server.address, 3600))
    await hanging.wait()
    signal.raise_signal(signal.SIGINT)
    await showing
    text = console.file.getvalue()
    assert "42.5" in text
    # The terminal has its own screen back.
    assert text.index("\x1b[?1049h") < text.index("42.5") < text.index("\x1b[?1049l")


async def test_the_screen_ends_with_an_error_that_stays(aio_server):
    aio_server.failures = [aio_server.fail(grpc.StatusCode.NOT_FOUND, "no model")]
    console = terminal()
    with pytest.raises(ModelNotFound):
        await show_live(feed_of(aio_server, Pauses()), console, aio_server.address, 3600)
    assert console.file.getvalue().count("\x1b[?1049l") == 1


@pytest.mark.parametrize("key", [b"q", b"Q"])
async def test_q_leaves(monkeypatch, key):
    keyboard, end = pty.openpty()
    stop = asyncio.Event()
    monkeypatch.setattr("sys.stdin", os.fdopen(end))
    before = termios.tcgetattr(end)
    with leaving(stop):
        assert termios.tcgetattr(end) != before
        os.write(keyboard, b"x")
        os.write(keyboard, key)
        await stop.wait()
    assert termios.tcgetattr(end) == before
    sys.stdin.close()
    os.close(keyboard)


@pytest.fixture
def run():
    app = typer.Typer()
    register(app)
    return lambda *arguments: CliRunner().invoke(app, ["top", *arguments])


@pytest.mark.parametrize("flags", [["--once"], []])
def test_the_command_prints_one_reading(run, server, flags):
    result = run("--address", server.address, *flags)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"tiny at {server.address} ")
    assert "tokens/s  42.5 produced" in result.stdout
    assert re.search(r"^ +0  decode   acme +normal +40 .* 7/", result.stdout, re.MULTILINE)
    assert "\x1b" not in result.stdout


def test_the_command_without_a_server(run):
    result = run("--address", "127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: no connection to a server at 127.0.0.1:1: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("interval", ["0.09", "3601", "x"])
def test_intervals_that_are_none(run, interval):
    assert run("--interval", interval).exit_code == 2
