"""Logs the connections and requests that the HTTP listener refuses."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from llm_serving_engine.server.refusals import BODIES, CONNECTIONS

# Callers decide how many refusals there are: of each reason, one line is written in this time.
INTERVAL_SECONDS = 10.0

_logger = logging.getLogger(__name__)


class RefusalLog:
    """Writes at most one line per reason and interval, with the number of suppressed ones."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Write with the logging module; `clock` is in seconds."""
        self._clock = clock
        self._next: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def refused(self, reason: str, status: int) -> None:
        """Note a refusal.

        Args:
            reason: One of `refusals.HTTP_REFUSALS`.
            status: What was answered; 0 for nothing.
        """
        now = self._clock()
        if now < self._next.get(reason, 0.0):
            self._left_out[reason] = self._left_out.get(reason, 0) + 1
            return
        self._next[reason] = now + INTERVAL_SECONDS
        fields = {"reason": reason, "status": status, "left_out": self._left_out.pop(reason, 0)}
        shown = {name: value for name, value in fields.items() if value}
        # A full server is for its operator to know; the others are the callers' doing.
        level = logging.WARNING if reason in (BODIES, CONNECTIONS) else logging.INFO
        _logger.log(level, "HTTP refused", extra={"fields": shown})
