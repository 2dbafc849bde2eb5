"""Keeps the last readings, for rates and curves."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from llm_serving_engine.clients.operations import SchedulerState

READINGS_MAX = 120
RATE_SECONDS = 10.0


class _Produced(NamedTuple):
    """What each tenant had had, at a time of the server's clock in seconds."""

    at: float
    tokens: dict[str, int]


class History:
    """Readings as they were shown: at equal distances, some of them more than once.

    Attributes:
        tokens_per_second: Of each reading, the newest last.
    """

    def __init__(self) -> None:
        self.tokens_per_second: deque[float] = deque(maxlen=READINGS_MAX)
        self._produced: deque[_Produced] = deque(maxlen=READINGS_MAX)

    def add(self, state: SchedulerState) -> None:
        """Take in what is shown next."""
        self.tokens_per_second.append(state.tokens_per_second)
        now = state.time.timestamp()
        if self._produced and self._produced[-1].at == now:
            return
        tokens = {tenant.tenant: tenant.completion_tokens for tenant in state.tenants}
        self._produced.append(_Produced(now, tokens))
        while len(self._produced) > 2 and self._produced[1].at <= now - RATE_SECONDS:
            self._produced.popleft()

    def forget(self) -> None:
        """Begin anew: the server has, too."""
        self._produced.clear()

    def rate(self, tenant: str) -> float | None:
        """Tokens a second that a tenant got over the last 10 seconds; None where unknown."""
        known = [one for one in self._produced if tenant in one.tokens]
        if len(known) < 2 or known[-1] is not self._produced[-1]:
            return None
        first, last = known[0], known[-1]
        return max(last.tokens[tenant] - first.tokens[tenant], 0) / (last.at - first.at)
