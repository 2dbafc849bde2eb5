"""What other processes take of the cores while something is measured at load."""

from __future__ import annotations

import time
from collections.abc import Callable

from llm_serving_engine.backends import machine

# Cores that others may take on average, until a measurement tells nothing, and until it is
# not to be remembered. GGML's threads wait for the slowest of them after every operation.
# Of a machine with nothing else on it, both measurements of a load had up to 0.1.
CROWDED_CORES, DISTURBED_CORES = 0.4, 0.1
# Core seconds that are not counted: the system counts in ticks, and a short one is none.
CROWDED_SECONDS, DISTURBED_SECONDS = 0.1, 0.02
# The least part of a call's time for which the cores are thought to have been its own.
SHARE_MIN = 0.25


class OtherProcesses:
    """What other processes have had of the cores since this object was made."""

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        core_seconds: Callable[[], float] = machine.core_seconds_of_strangers,
        cores: int | None = None,
    ) -> None:
        """Begin.

        Args:
            clock: Seconds.
            core_seconds: That other processes have had so far.
            cores: That this process may use. Default: of this machine.
        """
        self.clock = clock
        self._core_seconds = core_seconds
        self._all_cores = len(machine.allowed_cores()) if cores is None else cores
        self._began, self._had = clock(), core_seconds()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self._began

    @property
    def taken(self) -> float:
        """Core seconds that others had since the beginning."""
        return self._core_seconds() - self._had

    @property
    def cores(self) -> float:
        """How many cores others had on average."""
        return max(self.taken, 0.0) / max(self.elapsed, 1e-9)

    def crowded(self) -> bool:
        """Whether times say how long threads waited, not how long calls take."""
        return self.taken > CROWDED_CORES * self.elapsed + CROWDED_SECONDS

    def disturbed(self) -> bool:
        """Whether times may mislead: what they say is not to be remembered."""
        return self.taken > DISTURBED_CORES * self.elapsed + DISTURBED_SECONDS

    def share_left(self, threads: int) -> float:
        """The part of the time for which so many threads could compute; at least SHARE_MIN."""
        return min(max((self._all_cores - self.cores) / threads, SHARE_MIN), 1.0)
