"""stdin, stdout, and stderr of a process that was started without them."""

from __future__ import annotations

import os
import sys


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
