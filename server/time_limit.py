"""Bounds each wait of a task for its caller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from llm_serving_engine.scheduler.errors import RequestError

_Value = TypeVar("_Value")


class TimeLimit:
    """Interrupts a task whose wait exceeds a timeout; one object serves many successive waits.

    A stream waits once for each message, and a timer per message would be a
    large part of a token's cost. So one timer serves all waits: when it fires
    during a later wait, it is set again for that wait's end.
    """

    def __init__(self, seconds: float | None, error: Callable[[], RequestError]) -> None:
        """Bound the waits of the running task.

        Args:
            seconds: The timeout of each wait; None for no timeout.
            error: Makes the error that a wait raises when its timeout passes.
        """
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._error = error
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._expired = False

    async def hold(self, awaitable: Awaitable[_Value]) -> _Value:
        """Await a result. Raises `error()` if the timeout passes first."""
        self._since = self._loop.time()
        if self._timer is None and self._seconds is not None:
            self._timer = self._loop.call_at(self._since + self._seconds, self._look)
        try:
            return await awaitable
        except asyncio.CancelledError:
            if not self._expired:
                raise
            if hasattr(self._task, "uncancel"):  # from Python 3.11 on
                self._task.uncancel()
            raise self._error() from None
        finally:
            self._since = None

    def expire(self, error: Callable[[], RequestError]) -> None:
        """Interrupt the current wait with another error."""
        self._error, self._expired = error, True
        self._task.cancel()

    def close(self) -> None:
        """Cancel the timer; the task has no timeout afterwards."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self._since is None or self._seconds is None:
            return
        end = self._since + self._seconds
        if end > self._loop.time():
            self._timer = self._loop.call_at(end, self._look)
        else:
            self._expired = True
            self._task.cancel()
