"""Clients belong to the process that made them: gRPC's connections do not survive a fork."""

from __future__ import annotations

import os


class ForkGuard:
    """The process in which something was made, and whether it is still open there."""

    def __init__(self) -> None:
        self._id = os.getpid()
        self._closed = False

    @property
    def inherited(self) -> bool:
        """Whether this is another process, which has it by a fork."""
        return os.getpid() != self._id

    def check(self) -> None:
        """Raises RuntimeError in another process, and after `close`."""
        if self.inherited:
            raise RuntimeError(
                "this client was made in another process, and its connection did not survive "
                "the fork; make a client in the process that uses it"
            )
        if self._closed:
            raise RuntimeError("this client is closed; make another")

    def close(self) -> bool:
        """Close it. Whether there is anything to close: not twice, and not in another process."""
        first = not self._closed and not self.inherited
        self._closed = True
        return first
