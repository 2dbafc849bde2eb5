"""Buffers a request's output for its reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from llm_serving_engine.scheduler.events import Produced
from llm_serving_engine.scheduler.sequence import Sequence


class TokenStream:
    """The tokens of one request, in order, bounded by the reader's lag.

    The engine writes and one reader reads, both on the event loop. Tokens that
    come while the reader is busy are handed over together.
    """

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self._buffer: list[Produced] = []
        self._started = False
        self._ended = False
        self._changed = asyncio.Event()

    def put(self, produced: Produced) -> None:
        """Add a token."""
        self._buffer.append(produced)
        self._changed.set()

    def start(self) -> None:
        """Mark that the request has left the queue, so its cached tokens are known."""
        self._started = True
        self._changed.set()

    def end(self) -> None:
        """Mark the end of the stream: the sequence has ended."""
        self._ended = True
        self._changed.set()

    @property
    def buffered(self) -> int:
        """The number of unread tokens."""
        return len(self._buffer)

    async def started(self) -> None:
        """Wait until the request has left the queue.

        Raises:
            RequestError: It ended with an error before.
        """
        while not (self._started or self._ended):
            await self._wait()
        if not self._started:
            self._raise_error()

    async def __aiter__(self) -> AsyncIterator[list[Produced]]:
        """Yield batches of the tokens that have arrived, until the sequence has ended.

        Raises:
            RequestError: The sequence ended with an error; tokens that came
                before are yielded first.
        """
        while True:
            if self._buffer:
                batch, self._buffer = self._buffer, []
                yield batch
            elif self._ended:
                self._raise_error()
                return
            else:
                await self._wait()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _raise_error(self) -> None:
        if self.sequence.error is not None:
            raise self.sequence.error
