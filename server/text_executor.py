"""Runs chat templates and tokenizers for long texts on a bounded thread pool."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from llm_serving_engine.scheduler.errors import LimitReached
from llm_serving_engine.server.config import GenerationConfig

RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.05, 60.0
# The mean request before any is measured, and the weight of the newest measurement.
REQUEST_SECONDS, REQUEST_BYTES = 0.1, 100_000.0
NEWEST = 0.2

T = TypeVar("T")


class TextExecutor:
    """Runs text work that would block the event loop. Belongs to one event loop.

    When a caller cancels, queued work is dropped; running work counts against
    the limits until it ends.
    """

    def __init__(
        self,
        config: GenerationConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        config = config or GenerationConfig()
        self._requests_max = config.text_requests_max
        self._bytes_max = config.text_bytes_max
        self._thread_count = config.text_threads
        self._threads = ThreadPoolExecutor(config.text_threads, thread_name_prefix="text")
        self._lock = threading.Lock()
        self._requests = 0
        self._bytes = 0
        self._mean_seconds, self._mean_bytes = REQUEST_SECONDS, REQUEST_BYTES

    @property
    def requests(self) -> int:
        """The number of requests whose work runs or waits."""
        return self._requests

    async def run(self, size: int, function: Callable[[], T]) -> T:
        """Call `function` on a thread of the pool, and return its result.

        Args:
            size: The text's size, in bytes, approximately.
            function: The work.

        Raises:
            LimitReached: Too many requests or too many bytes run or wait already.
        """
        if self._requests >= self._requests_max:
            description = f"{self._requests} requests wait for the tokenizer"
            raise self._limit_reached("text.requests", description, self._mean_seconds)
        excess = self._bytes + size - self._bytes_max
        if self._requests and excess > 0:
            description = (
                f"{self._bytes} bytes of text wait for the tokenizer, this request has {size}, "
                f"and the limit is {self._bytes_max}"
            )
            seconds = excess * self._mean_seconds / max(self._mean_bytes, 1.0)
            raise self._limit_reached("text.bytes", description, seconds)
        self._count(1, size)
        future = self._threads.submit(self._measured, size, function)
        future.add_done_callback(lambda done: self._done(done, size))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Drop queued work; running work goes on."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _limit_reached(self, subject: str, description: str, seconds: float) -> LimitReached:
        """Make the error of a refusal, to be retried after `seconds` of one thread's work."""
        after = max(seconds / self._thread_count, RETRY_SECONDS_MIN)
        return LimitReached(subject, description, min(after, RETRY_SECONDS_MAX))

    def _measured(self, size: int, function: Callable[[], T]) -> T:
        began = self._clock()
        try:
            return function()
        finally:
            seconds = self._clock() - began
            with self._lock:
                self._mean_seconds += NEWEST * (seconds - self._mean_seconds)
                self._mean_bytes += NEWEST * (size - self._mean_bytes)

    def _done(self, future: Future[T], size: int) -> None:
        # Runs on the thread that did the work, or on the one that dropped it.
        self._count(-1, -size)

    def _count(self, requests: int, size: int) -> None:
        with self._lock:
            self._requests += requests
            self._bytes += size
