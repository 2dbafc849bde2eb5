"""Chooses the number of computing threads: fewer while other processes use the cores.

GGML's threads wait for each other after every operation, hundreds of times in a
step. While another process has the core of one of them, all the others wait for
that one, and a step takes several times as long. With a thread less, everything
goes on at the speed of the cores that are left.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.backend import BackendConfig

# Seconds of computing that the number is fitted by, and between two looks: long against the ticks
# that the system counts in.
FIT_SECONDS, LOOK_SECONDS = 0.5, 0.05
# What others did while nothing was computed says nothing about what they want now.
REST_SECONDS = 0.05
# A shorter load is no more than some ticks.
LOAD_SECONDS_MIN = 0.1
# What others take of a thread's core until the thread is given up, and until it is
# taken back. The server's own process and a client beside it take up to 0.3.
GIVEN_UP_AT = 0.4
TAKEN_BACK_AT = 0.25


class ThreadCount:
    """As many threads as were asked for, or what the cores have left.

    Attributes:
        now: How many compute.
    """

    def __init__(
        self,
        most: int,
        cores: int,
        others: Callable[[], float] = machine.core_seconds_of_others,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with all.

        Args:
            most: Threads while no other process wants the cores.
            cores: How many there are.
            others: Core seconds that other processes have had so far.
            clock: Seconds.
        """
        self.now = most
        self._most = most
        self._cores = cores
        self._others = others
        self._clock = clock
        self._ended = clock()
        self._computed = self._taken = 0.0
        self._looked, self._seen = self._ended, others()

    @classmethod
    def of(cls, most: int, config: BackendConfig) -> ThreadCount:
        """On the cores of this process; without end where they are not to be yielded."""
        return cls(most, len(machine.allowed_cores()) if config.yield_cores else sys.maxsize)

    def begin(self) -> bool:
        """Take in that computing begins; whether `now` is another number than before."""
        at, before = self._clock(), self.now
        if at - self._ended > REST_SECONDS:
            self._look(at)
        if self._computed >= FIT_SECONDS:
            self.now = self._fitting(self._cores - self._taken / self._computed)
            self._computed = self._taken = 0.0
        return self.now != before

    def after_loading(self) -> int:
        """How many threads find their core free, by what others took since the beginning.

        While a model is loaded, others want the cores or they do not: that nothing
        is computed does not matter. A load that takes no time says nothing.
        """
        at = self._clock()
        if at - self._looked >= LOAD_SECONDS_MIN:
            seconds, taken = self._look(at)
            self.now = self._fitting(self._cores - taken / seconds)
        return self.now

    def end(self) -> None:
        """Take in that computing has ended, and what others took meanwhile.

        Short requests add up: each of them alone is too short to say anything.
        """
        self._ended = self._clock()
        if self._ended - self._looked >= LOOK_SECONDS:
            seconds, taken = self._look(self._ended)
            self._computed += seconds
            self._taken += taken

    def _look(self, at: float) -> tuple[float, float]:
        """Seconds since the look before, and the core seconds that others took in them."""
        looked, seen = self._looked, self._seen
        self._looked, self._seen = at, self._others()
        return at - looked, self._seen - seen

    def _fitting(self, left: float) -> int:
        """How many threads find their core free where so many cores are left."""
        kept, taken = int(left + GIVEN_UP_AT), int(left + TAKEN_BACK_AT)
        return max(min(self._most, max(min(self.now, kept), taken)), 1)
