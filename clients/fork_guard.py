"""Refuses the use of a client in a forked process: gRPC connections do not survive a fork."""

from __future__ import annotations

import os


class ForkGuard:
    """Remembers the process that made a client, and whether the client is closed."""

    def __init__(self) -> None:
        self._id = os.getpid()
        self._closed = False

    @property
    def inherited(self) -> bool:
        """Whether the client was made in another process, before a fork."""
        return os.getpid() != self._id

    def check(self) -> None:
        """Raise RuntimeError in another process, and after `close`."""
        if self.inherited:
            raise RuntimeError(
                "this client was made in another process, and its connection did not survive "
                "the fork; make a client in the process that uses it"
            )
        if self._closed:
            raise RuntimeError("this client is closed; make another")

    def close(self) -> bool:
        """Mark the client as closed.

        Returns:
            Whether the caller has to close the connection: False the second
            time, and in another process.
        """
        first = not self._closed and not self.inherited
        self._closed = True
        return first
