"""Templates and tokenizing of long texts: on threads of their own, and bounded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from llm_serving_engine.scheduler.errors import LimitReached
from llm_serving_engine.server.config import GenerationConfig

# How soon a refused request may come back: about the time that the work of a
# few long prompts takes.
RETRY_SECONDS = 0.5

T = TypeVar("T")


class TextWork:
    """Runs what would hold up the event loop. For one event loop.

    Work whose caller has gone is dropped if it has not begun, and counts until
    it is done if it has.
    """

    def __init__(self, config: GenerationConfig | None = None) -> None:
        config = config or GenerationConfig()
        self._requests_max = config.text_requests_max
        self._bytes_max = config.text_bytes_max
        self._threads = ThreadPoolExecutor(config.text_threads, thread_name_prefix="text")
        self._lock = threading.Lock()
        self._requests = 0
        self._bytes = 0

    @property
    def requests(self) -> int:
        """Requests whose work runs or waits."""
        return self._requests

    async def run(self, size: int, function: Callable[[], T]) -> T:
        """The result of `function`, called on another thread.

        Args:
            size: Bytes of the text, about.
            function: What to call.

        Raises:
            LimitReached: Too many requests or too many bytes are here already.
        """
        if self._requests >= self._requests_max:
            self._refuse("text.requests", f"{self._requests} requests wait for the tokenizer")
        if self._requests and self._bytes + size > self._bytes_max:
            self._refuse(
                "text.bytes",
                f"{self._bytes} bytes of text wait for the tokenizer, this request has {size}, "
                f"and the limit is {self._bytes_max}",
            )
        self._count(1, size)
        future = self._threads.submit(function)
        future.add_done_callback(lambda done: self._done(done, size))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Drop what has not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _refuse(self, subject: str, description: str) -> None:
        raise LimitReached(subject, description, RETRY_SECONDS)

    def _done(self, future: Future[T], size: int) -> None:
        # On the thread that did the work, or on the one that dropped it.
        self._count(-1, -size)

    def _count(self, requests: int, size: int) -> None:
        with self._lock:
            self._requests += requests
            self._bytes += size
