"""Follows the server's state, and knows whether it is current."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from llm_serving_engine.clients.aio import AsyncClient
from llm_serving_engine.clients.errors import RetryableError
from llm_serving_engine.clients.operations import SchedulerState

RETRY_SECONDS = 1.0


class Feed:
    """Watches a model's scheduler, over one connection after the other.

    Attributes:
        state: The newest reading; None before the first.
        problem: Why there is nothing newer; None while all is well.
    """

    def __init__(
        self,
        connect: Callable[[], AsyncClient],
        model: str,
        interval: float,
        pause: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(RETRY_SECONDS),
    ) -> None:
        """Describe what to watch.

        Args:
            connect: Makes a client. A new one for each attempt, as a channel
                waits longer and longer for a server that is away.
            model: The model's name; empty for the server's default one.
            interval: The shortest time between two readings, in seconds.
            pause: Waits between attempts.
        """
        self.state: SchedulerState | None = None
        self.problem: str | None = None
        self._connect = connect
        self._model = model
        self._interval = interval
        self._pause = pause

    async def read(self) -> SchedulerState:
        """One reading. Raises ServingError."""
        async with self._connect() as client:
            self.state = await client.scheduler_state(self._model)
        return self.state

    async def follow(self) -> None:
        """Keep `state` up to date until cancelled.

        Raises:
            ServingError: The server does not do what is asked, and will not later.
        """
        while True:
            try:
                await self._watch()
                self.problem = "the server has shut down"
            except RetryableError as error:
                self.problem = str(error)
            await self._pause()

    async def _watch(self) -> None:
        async with self._connect() as client:
            async for state in client.watch_scheduler_state(self._model, interval=self._interval):
                self.state, self.problem = state, None
