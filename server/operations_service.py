"""GetSchedulerState, WatchSchedulerState, and ExplainRequest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import grpc

from llm_serving_engine.scheduler.errors import InvalidField, LimitReached
from llm_serving_engine.server.catalog import Catalog
from llm_serving_engine.server.model import ServedModel
from llm_serving_engine.server.not_found import UnknownRequest
from llm_serving_engine.server.request_history.encoding import encode_explanation
from llm_serving_engine.server.request_history.request_history import RequestHistory
from llm_serving_engine.server.scheduler_view import SchedulerView
from llm_serving_engine.v1 import operations_pb2, operations_pb2_grpc

SERVICE = operations_pb2.DESCRIPTOR.services_by_name["OperationsService"].full_name
INTERVAL_DEFAULT_SECONDS = 1.0
INTERVAL_MAX_SECONDS = 3600.0
EXPLANATIONS_MAX = 10
# When another watcher will leave is unknown. A person who waits for the view accepts this delay.
RETRY_SECONDS = 5.0

Context = grpc.aio.ServicerContext[Any, Any]


class OperationsService(operations_pb2_grpc.OperationsServiceServicer):
    """Reports the schedulers' states and explains requests."""

    def __init__(
        self,
        catalog: Catalog,
        views: Mapping[str, SchedulerView],
        histories: Mapping[str, RequestHistory],
        interval_min: float,
        watchers_max: int,
    ) -> None:
        """Show what a server does.

        Args:
            catalog: The models.
            views: Their schedulers, by name.
            histories: Their requests, by name.
            interval_min: Between two readings of a watch, in seconds.
            watchers_max: Watches at once.
        """
        self._catalog = catalog
        self._views = views
        self._histories = histories
        self._interval_min = interval_min
        self._watchers_max = watchers_max
        self._watchers = 0
        self._closing = asyncio.Event()

    async def GetSchedulerState(  # noqa: N802
        self, request: operations_pb2.GetSchedulerStateRequest, context: Context
    ) -> operations_pb2.GetSchedulerStateResponse:
        """Return the state. Raises UnknownModel, and Unavailable before the load."""
        state = self._read(self._catalog.get(request.model))
        return operations_pb2.GetSchedulerStateResponse(state=state)

    async def WatchSchedulerState(  # noqa: N802
        self, request: operations_pb2.WatchSchedulerStateRequest, context: Context
    ) -> AsyncIterator[operations_pb2.WatchSchedulerStateResponse]:
        """Stream the state and its changes until the server shuts down."""
        model, interval = self._catalog.get(request.model), self._interval(request)
        if self._watchers >= self._watchers_max:
            description = f"{self._watchers_max} watch the schedulers, which is the limit"
            raise LimitReached("watchers_max", description, RETRY_SECONDS)
        self._watchers += 1
        try:
            async with contextlib.aclosing(self._watch(model, interval)) as readings:
                async for reading in readings:
                    yield reading
        finally:
            self._watchers -= 1

    async def _watch(
        self, model: ServedModel, interval: float
    ) -> AsyncGenerator[operations_pb2.WatchSchedulerStateResponse, None]:
        shown: operations_pb2.SchedulerState | None = None
        while not self._closing.is_set():
            state = self._read(model)
            if _changed(shown, state):
                shown = state
                yield operations_pb2.WatchSchedulerStateResponse(state=state)
            try:
                await asyncio.wait_for(self._closing.wait(), interval)
            except asyncio.TimeoutError:
                continue

    async def ExplainRequest(  # noqa: N802
        self, request: operations_pb2.ExplainRequestRequest, context: Context
    ) -> operations_pb2.ExplainRequestResponse:
        """Explain a request. Raises InvalidField, UnknownModel, or UnknownRequest."""
        model = self._catalog.get(request.model)
        return explained(request.request_id, model.name, self._histories[model.name])

    def close(self) -> None:
        """End all watches."""
        self._closing.set()

    def _read(self, model: ServedModel) -> operations_pb2.SchedulerState:
        return self._views[model.name].read(model)

    def _interval(self, request: operations_pb2.WatchSchedulerStateRequest) -> float:
        if not request.HasField("interval"):
            return max(INTERVAL_DEFAULT_SECONDS, self._interval_min)
        seconds = request.interval.seconds + request.interval.nanos / 1e9
        if not self._interval_min <= seconds <= INTERVAL_MAX_SECONDS:
            raise InvalidField(
                "interval",
                f"is {seconds:g} s; it can be {self._interval_min:g} to {INTERVAL_MAX_SECONDS:g}",
            )
        return seconds


def explained(
    request_id: str, model: str, history: RequestHistory
) -> operations_pb2.ExplainRequestResponse:
    """Explain the requests with an id. Raises InvalidField or UnknownRequest."""
    if not request_id:
        raise InvalidField("request_id", "is empty")
    found = history.of_id(request_id)[:EXPLANATIONS_MAX]
    if not found:
        raise UnknownRequest(f"none of the last requests of {model} has the id {request_id!r:.140}")
    now = history.clock()
    explanations = [encode_explanation(record, model, now) for record in found]
    return operations_pb2.ExplainRequestResponse(explanations=explanations)


def _changed(
    before: operations_pb2.SchedulerState | None, now: operations_pb2.SchedulerState
) -> bool:
    if before is None:
        return True
    comparable = operations_pb2.SchedulerState()
    comparable.CopyFrom(before)
    comparable.time.CopyFrom(now.time)
    return comparable != now
