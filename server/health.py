"""grpc.health.v1: Check, Watch, and List.

The library's servicer leaves out List, says SERVING before anything is loaded,
and keeps its watches open while the server shuts down.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
Status = int
SERVING: Status = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Status = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN: Status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

Context = grpc.aio.ServicerContext[Any, Any]


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Reports whether services and models can answer; the name "" is the whole server."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """Register `names`, none of which serves yet."""
        self._statuses: dict[str, Status] = dict.fromkeys(names, NOT_SERVING)
        self._changed = asyncio.Condition()
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()

    def set(self, name: str, serving: bool) -> None:
        """Set whether a name can answer."""
        self._statuses[name] = SERVING if serving else NOT_SERVING
        self._notify()

    def set_all(self, serving: bool) -> None:
        """Set whether all names can answer."""
        for name in self._statuses:
            self.set(name, serving)

    def serving(self, name: str = "") -> bool:
        """Return whether a name can answer."""
        return self._statuses[name] == SERVING

    def close(self) -> None:
        """End all watches."""
        self._closing = True
        self._notify()

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Return the current status; NOT_FOUND for an unknown name, by the protocol."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service[:100]!r}")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Stream the current status and its changes."""
        shown = None
        while True:
            # The last word is sent even where all watches have been ended meanwhile.
            closing = self._closing
            status = self._statuses.get(request.service, SERVICE_UNKNOWN)
            if status != shown:
                shown = status
                yield health_pb2.HealthCheckResponse(status=status)
            if closing:
                return
            await self._change(request.service, status)

    async def List(  # noqa: N802
        self, request: health_pb2.HealthListRequest, context: Context
    ) -> health_pb2.HealthListResponse:
        """All statuses."""
        return health_pb2.HealthListResponse(
            statuses={
                name: health_pb2.HealthCheckResponse(status=status)
                for name, status in self._statuses.items()
            }
        )

    async def _change(self, name: str, status: Status) -> None:
        """Wait until a status changes, or all watches end."""

        def changed() -> bool:
            return self._closing or self._statuses.get(name, SERVICE_UNKNOWN) != status

        async with self._changed:
            await self._changed.wait_for(changed)

    def _notify(self) -> None:
        task = asyncio.ensure_future(self._notify_all())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _notify_all(self) -> None:
        async with self._changed:
            self._changed.notify_all()
