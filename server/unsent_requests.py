"""Limits the RPCs that wait for their request message: each holds the part that has arrived."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from llm_serving_engine.scheduler.errors import LimitReached
from llm_serving_engine.server.time_limit import TimeLimit

SUBJECT = "grpc.unsent_requests_max"
# The limit does not apply to younger waits: a burst of complete requests is no attack.
MOMENT_SECONDS = 1.0
# Clients over a slow network, or a sender of partial messages: both last for seconds.
RETRY_SECONDS = 5.0


class UnsentRequests:
    """Tracks the RPCs of one server that wait for their message, the oldest first."""

    def __init__(self, requests_max: int, moment_seconds: float = MOMENT_SECONDS) -> None:
        """Allow at most `requests_max` RPCs to wait for longer than `moment_seconds`."""
        self._requests_max = requests_max
        self._moment = moment_seconds
        self._waiting: OrderedDict[TimeLimit, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, wait: TimeLimit) -> None:
        """Add an RPC that begins to wait; end the oldest waits above the limit."""
        self._waiting[wait] = asyncio.get_running_loop().time()
        self._end_oldest()

    def end(self, wait: TimeLimit) -> None:
        """Remove an RPC that has stopped waiting."""
        self._waiting.pop(wait, None)

    def _end_oldest(self) -> None:
        loop = asyncio.get_running_loop()
        while len(self._waiting) > self._requests_max:
            wait, since = next(iter(self._waiting.items()))
            left = since + self._moment - loop.time()
            if left > 0:
                if self._timer is None:
                    self._timer = loop.call_later(left, self._look)
                return
            del self._waiting[wait]
            wait.expire(self._too_many)

    def _look(self) -> None:
        self._timer = None
        self._end_oldest()

    def _too_many(self) -> LimitReached:
        description = f"the messages of more than {self._requests_max} requests are on their way"
        return LimitReached(SUBJECT, description, RETRY_SECONDS)
