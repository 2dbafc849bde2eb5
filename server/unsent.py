"""RPCs whose message is still on its way: only so many, as each holds what has come of it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from llm_serving_engine.scheduler.errors import LimitReached
from llm_serving_engine.server.time_limit import TimeLimit

SUBJECT = "grpc.unsent_requests_max"
# So long any number of them is let be: a burst of requests that come whole.
MOMENT_SECONDS = 1.0
# The lines of those that come after are as slow, or somebody sends halves.
RETRY_SECONDS = 5.0


class UnsentRequests:
    """The RPCs of one server that wait for their message, the oldest first."""

    def __init__(self, requests_max: int, moment_seconds: float = MOMENT_SECONDS) -> None:
        """Let so many wait for longer than a moment."""
        self._requests_max = requests_max
        self._moment = moment_seconds
        self._waiting: OrderedDict[TimeLimit, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, wait: TimeLimit) -> None:
        """An RPC begins to wait; the oldest ones end where there are too many."""
        self._waiting[wait] = asyncio.get_running_loop().time()
        self._end_oldest()

    def end(self, wait: TimeLimit) -> None:
        """It waits no more."""
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
