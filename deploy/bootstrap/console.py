"""Prints the set-up's progress."""

from __future__ import annotations

import sys
import time
from typing import TextIO

QUIET_SECONDS = 30.0
"""How often the status is said where it cannot be overwritten."""


def minutes(seconds: float) -> str:
    """A duration as minutes and seconds, such as "3:07"."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02}"


class Console:
    """Lines for people on stderr.

    On a terminal, the status is one line that changes; in a pipe or a log it
    is a line every `QUIET_SECONDS`.
    """

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._width = 0
        self._said_at = time.monotonic()

    def say(self, text: str) -> None:
        """Write a line that stays."""
        self._erase()
        self._stream.write(f"set-up: {text}\n")
        self._stream.flush()
        self._said_at = time.monotonic()

    def status(self, text: str) -> None:
        """Show what is under way."""
        if self._terminal:
            self._erase()
            line = f"set-up: {text}"[:79]
            self._stream.write(line)
            self._stream.flush()
            self._width = len(line)
        elif time.monotonic() - self._said_at >= QUIET_SECONDS:
            self.say(text)

    def fail(self, error: Exception) -> None:
        """Write why it cannot go on."""
        self._erase()
        self._stream.write(f"{error}\n")

    def _erase(self) -> None:
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._width = 0
