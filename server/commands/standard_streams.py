"""stdin, stdout, and stderr of a process that goes on without them."""

from __future__ import annotations

import os
import sys

import typer


def open_standard_streams() -> None:
    """Open the null device in the place of each standard stream that is closed.

    Otherwise sockets would get the numbers 0 to 2, which a child process takes
    for its standard streams. Call it before anything else opens a file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def tell(line: str, *, err: bool = False) -> None:
    """Write a line to stdout, or to stderr, and never fail.

    Where it cannot be written, as the disk is full or the reader of a pipe has
    gone, the null device takes the stream's place.
    """
    try:
        typer.echo(line, err=err)
    except OSError:
        stream = sys.stderr if err else sys.stdout
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
