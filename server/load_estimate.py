"""Estimates the remaining time of a model's load."""

from __future__ import annotations

import time
from collections.abc import Callable

# Longer estimates are guesses; callers that ask again meanwhile cost little.
SECONDS_MAX = 60.0


class LoadEstimate:
    """Estimates the rest of a load from its progress, and from the load before.

    The runner tells the fraction of the weights that it has read. What comes
    before and after that has no measure: there, as much time as has passed
    since the last word is expected to pass again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin a first load now; `clock` is in seconds."""
        self._clock = clock
        self._seconds_before = 0.0
        self.begin()

    def begin(self) -> None:
        """Start the estimate of another load."""
        self._began = self._told = self._clock()
        self._fraction = 0.0

    def progressed(self, fraction: float) -> None:
        """Record the part of the weights that has been read, from 0 to 1."""
        self._fraction, self._told = fraction, self._clock()

    def done(self) -> None:
        """Record the end of a load: the next one is expected to take as long."""
        self._seconds_before = self._clock() - self._began

    def remaining(self) -> float:
        """Seconds until the load is done, at most SECONDS_MAX."""
        now = self._clock()
        passed = now - self._began
        if passed < self._seconds_before:
            seconds = self._seconds_before - passed
        elif 0.0 < self._fraction < 1.0:
            seconds = (self._told - self._began) / self._fraction - passed
        else:
            seconds = now - self._told
        return min(max(seconds, 0.0), SECONDS_MAX)
