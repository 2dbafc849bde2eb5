"""Which live request's time is up first."""

from __future__ import annotations

import heapq


class Deadlines:
    """Deadlines by request, the earliest first.

    Memory stays in proportion to the live requests: entries of requests that
    ended early are swept out when they outnumber the others.
    """

    def __init__(self) -> None:
        self._live: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def add(self, request_id: str, deadline: float) -> None:
        """Remember a request's deadline, in seconds of the caller's clock."""
        self._live[request_id] = deadline
        heapq.heappush(self._heap, (deadline, request_id))

    def discard(self, request_id: str) -> None:
        """Forget a request, if it has a deadline."""
        if self._live.pop(request_id, None) is not None and len(self._heap) > 2 * len(self._live):
            self._heap = [(deadline, live) for live, deadline in self._live.items()]
            heapq.heapify(self._heap)

    def pop_overdue(self, now: float) -> list[str]:
        """Take out the requests whose deadline is not after `now`, the earliest first."""
        overdue = []
        while self._heap and self._heap[0][0] <= now:
            deadline, request_id = heapq.heappop(self._heap)
            if self._live.get(request_id) == deadline:
                del self._live[request_id]
                overdue.append(request_id)
        return overdue
