"""Whether and when a call that the server cannot take now is made again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from llm_serving_engine.clients.errors import RetryableError, ServingError

ATTEMPTS_MAX = 100
# Between attempts of which the server did not say when: a random part of a
# delay that doubles from the first to the second.
BACKOFF_SECONDS = (0.2, 5.0)


@dataclass(frozen=True)
class Retries:
    """What a client's calls may spend on being made again.

    Attributes:
        attempts: How often a call is made in all, from 1 to 100.
        seconds: How long it may wait between its attempts, all added up. A
            server that asks for more is not waited for at all.
    """

    attempts: int = 1
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= ATTEMPTS_MAX:
            raise ValueError(f"attempts: {self.attempts} is not from 1 to {ATTEMPTS_MAX}")
        if not self.seconds >= 0:
            raise ValueError(f"retry_seconds: {self.seconds} is below 0")


class Attempts:
    """The attempts of one call."""

    def __init__(
        self,
        retries: Retries,
        timeout: float | None,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Begin with the first.

        Args:
            retries: What may be spent.
            timeout: Seconds for all attempts and the waits between them; None for no limit.
            clock: In seconds.
            dice: Gives a number between two.
        """
        self._retries = retries
        self._clock = clock
        self._dice = dice
        self._ends = None if timeout is None else clock() + timeout
        self._made = 1
        self._waited = 0.0

    @property
    def remaining(self) -> float | None:
        """Seconds that the attempt which begins now may take; None for no limit."""
        return None if self._ends is None else max(self._ends - self._clock(), 0.0)

    def pause(self, error: ServingError) -> float | None:
        """Seconds to wait before the next attempt; None where the error is the last word.

        A server's own word is kept to. Where that does not fit what may be
        spent, the call gives up at once rather than when its time is over.
        """
        if not isinstance(error, RetryableError) or error.retry_never:
            return None
        if self._made >= self._retries.attempts:
            return None
        wait = self._backoff() if error.retry_after is None else error.retry_after
        if self._waited + wait > self._retries.seconds:
            return None
        if self.remaining is not None and wait >= self.remaining:
            return None
        self._made += 1
        self._waited += wait
        return wait

    def _backoff(self) -> float:
        first, longest = BACKOFF_SECONDS
        return self._dice(0.0, min(first * 2.0 ** (self._made - 1), longest))
