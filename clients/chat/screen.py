"""Reads and shows a conversation on a terminal or in a pipe."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol, TextIO

from rich.console import Console

from llm_serving_engine.clients.results import Finished


class Screen(Protocol):
    """The user's side of a conversation.

    Attributes:
        interactive: Whether a person uses it: then an interrupt or an error
            ends the answer only, else the conversation.
    """

    interactive: bool

    def read(self) -> str | None:
        """The user's next line; None when there are no more."""

    def answering(self) -> contextlib.AbstractContextManager[Callable[[str], None]]:
        """Surrounds an answer; gives the function that shows a piece of it."""

    def finished(self, finished: Finished | None) -> None:
        """The answer is complete, or None where it was stopped."""

    def note(self, text: str) -> None:
        """Say something that is not part of the conversation."""


class Pipe:
    """One line in is one turn; the answers and nothing else come out."""

    interactive = False

    def __init__(self, source: TextIO, sink: TextIO) -> None:
        self._source = source
        self._sink = sink

    def read(self) -> str | None:
        """The next line."""
        line = self._source.readline()
        return line.rstrip("\r\n") if line else None

    @contextlib.contextmanager
    def answering(self) -> Iterator[Callable[[str], None]]:
        """Writes pieces as they come, and a line's end after them."""
        try:
            yield self._write
        finally:
            self._write("\n")

    def finished(self, finished: Finished | None) -> None:
        """Nothing to say."""

    def note(self, text: str) -> None:
        """Nothing to say."""

    def _write(self, text: str) -> None:
        self._sink.write(text)
        self._sink.flush()


class Terminal:
    """A terminal: reads a person's messages, and shows the answer as it arrives."""

    interactive = True

    def __init__(self, console: Console, ask: Callable[[str], str] = input) -> None:
        self._console = console
        self._ask = ask
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (gives input() a history and editing)

    def read(self) -> str | None:
        """The next line; Ctrl-C drops what was typed, Ctrl-D ends."""
        try:
            return self._ask("> ")
        except KeyboardInterrupt:
            self._console.print()
            return ""
        except EOFError:
            self._console.print()
            return None

    @contextlib.contextmanager
    def answering(self) -> Iterator[Callable[[str], None]]:
        """Shows that something goes on until the first piece comes."""
        status = self._console.status("")
        status.start()

        def show(text: str) -> None:
            status.stop()
            self._console.out(text, end="", highlight=False)

        try:
            yield show
        finally:
            status.stop()
            self._console.print()

    def finished(self, finished: Finished | None) -> None:
        """How long it was and how long it took."""
        self.note("stopped" if finished is None else summary(finished))

    def note(self, text: str) -> None:
        """In a dim line of its own."""
        self._console.print(text, style="dim", markup=False, highlight=False)


def summary(finished: Finished) -> str:
    """Such as "32 tokens, the first after 0.12 s, then 48.1 per second"."""
    tokens, timings = finished.usage.completion_tokens, finished.timings
    words = f"{tokens} tokens, the first after {timings.time_to_first_token:.2f} s"
    if timings.decode > 0 and tokens > 1:
        words += f", then {(tokens - 1) / timings.decode:.1f} per second"
    return words
