"""Handles SIGTERM, Ctrl-C, and SIGHUP for the whole life of the process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import asyncio

# A shell shows a process that a signal ended by this and the signal's number.
SIGNALLED = 128


def end_when_told() -> None:
    """End the process when SIGTERM comes, and whatever else holds it up when it comes again.

    Process 1 of a container has no default for SIGTERM: without a handler it
    would live on through imports, downloads, and loading.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, _end_at_once)
    sys.exit(SIGNALLED + number)


def _end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(SIGNALLED + number)


class StopSignals:
    """The stop signals received so far, on the running event loop.

    Attributes:
        told: Set by the first signal.
        again: Set by the second, unless it is SIGHUP.
        exit_code: 0, or that of a process which a second signal ended.
    """

    def __init__(self) -> None:
        """Take SIGTERM and SIGINT from now on, and SIGHUP unless it is ignored, as by nohup."""
        import asyncio

        self.told: asyncio.Event = asyncio.Event()
        self.again: asyncio.Event = asyncio.Event()
        self.exit_code = 0
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._take, number)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            # A closed terminal can send it twice, from the shell and from the kernel.
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.told.set)

    def _take(self, number: signal.Signals) -> None:
        if self.told.is_set():
            self.exit_code = SIGNALLED + number
            self.again.set()
        self.told.set()
