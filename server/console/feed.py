"""Sends the scheduler's state as server-sent events, from one producer to all open tabs.

What is new is encoded once an interval, and all tabs get the same bytes. A tab that
does not keep up skips: it gets everything anew when it is ready again. Without a tab
nothing is produced.
"""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.json_format import MessageToDict

from llm_serving_engine.scheduler.errors import LimitReached, RequestError
from llm_serving_engine.server.api.http_exchange import HttpExchange
from llm_serving_engine.server.api.sse import named_event
from llm_serving_engine.server.model import ServedModel
from llm_serving_engine.server.request_history.request_history import RequestHistory
from llm_serving_engine.server.request_history.timeline import record_content, step_content
from llm_serving_engine.server.scheduler_view import SchedulerView

# Events that may wait for a tab before it skips.
EVENTS_BEHIND_MAX = 8
# As in `operations_service.py`: the server does not know when a page is closed.
RETRY_SECONDS = 5.0


class _Tab:
    """The queue of events for one tab."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[bytes | None] = asyncio.Queue(EVENTS_BEHIND_MAX)
        self.behind = False

    def put(self, event: bytes | None) -> None:
        """Queue an event; if the queue is full, drop all of its events."""
        if self._events.full():
            while not self._events.empty():
                self._events.get_nowait()
            self.behind = True
        self._events.put_nowait(event)

    async def get(self) -> bytes | None:
        """Return the next event; None after the end."""
        return await self._events.get()


class SchedulerFeed:
    """Sends the state of a model's scheduler to tabs."""

    def __init__(
        self,
        model: ServedModel,
        view: SchedulerView,
        history: RequestHistory,
        interval: float,
        tabs_max: int,
    ) -> None:
        """Tell of a model.

        Args:
            model: The model.
            view: Its scheduler's state.
            history: Its last requests.
            interval: Seconds between two events.
            tabs_max: Tabs that may watch.
        """
        self._model = model
        self._view = view
        self._history = history
        self._interval = interval
        self._tabs_max = tabs_max
        self._tabs: set[_Tab] = set()
        self._producer: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def tabs(self) -> int:
        """The number of open tabs."""
        return len(self._tabs)

    async def watch(self, exchange: HttpExchange) -> None:
        """Send events to a tab until it or the server ends. Raises LimitReached."""
        if len(self._tabs) >= self._tabs_max:
            description = f"{self._tabs_max} pages watch the scheduler, which is the limit"
            raise LimitReached("http.console_watchers_max", description, RETRY_SECONDS)
        tab = _Tab()
        self._tabs.add(tab)
        exchange.watch()
        try:
            async with exchange.stream() as stream:
                await stream.send(self._everything())
                self._produce()
                while not self._closed and (event := await tab.get()) is not None:
                    if tab.behind:
                        tab.behind = False
                        event = self._everything()
                    await stream.send(event)
        finally:
            self._tabs.discard(tab)
            if not self._tabs and self._producer is not None:
                self._producer.cancel()
                self._producer = None

    def close(self) -> None:
        """End all watching."""
        self._closed = True
        for tab in self._tabs:
            tab.put(None)

    # Inside

    def _produce(self) -> None:
        if self._producer is None:
            # What changed before is in what the first tab has got.
            self._history.take_changed()
            self._history.take_steps()
            self._producer = asyncio.create_task(self._run(), name="console feed")

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            event = self._news()
            for tab in self._tabs:
                tab.put(event)

    def _everything(self) -> bytes:
        """Return the whole request history and the state as an event."""
        offset = self._history.wall_offset
        records = [record_content(record, offset) for record in self._history]
        return named_event("all", {**self._state(), "requests": records})

    def _news(self) -> bytes:
        """Return the changes since the last event, and the state."""
        offset = self._history.wall_offset
        return named_event(
            "news",
            {
                **self._state(),
                "requests": [
                    record_content(record, offset) for record in self._history.take_changed()
                ],
                "steps": [step_content(step, offset) for step in self._history.take_steps()],
            },
        )

    def _state(self) -> dict[str, Any]:
        now = self._history.clock() + self._history.wall_offset
        try:
            state = self._view.read(self._model)
        except RequestError as error:
            return {"now": now, "unavailable": str(error)}
        return {"now": now, "state": MessageToDict(state, preserving_proto_field_name=True)}
