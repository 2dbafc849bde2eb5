"""Watches the terminal for the keys that leave `top`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator

_LEAVE = frozenset(b"qQ")


@contextlib.contextmanager
def leaving(stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` on q or Ctrl-C, and leave the terminal as it was.

    To be used in a running event loop, of the main thread.
    """
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop.set)
    try:
        with _keys(loop, stop) if sys.stdin.isatty() else contextlib.nullcontext():
            yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@contextlib.contextmanager
def _keys(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> Iterator[None]:
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def read() -> None:
        pressed = os.read(terminal, 64)
        if not pressed or _LEAVE.intersection(pressed):
            stop.set()

    tty.setcbreak(terminal)
    loop.add_reader(terminal, read)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
