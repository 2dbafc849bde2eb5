"""Records simulated runs in a timeline file for the console."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.server.engine.observer import Observer
from llm_serving_engine.server.request_history.request_history import RequestHistory
from llm_serving_engine.server.request_history.timeline import timeline_content, timeline_file
from llm_serving_engine.server.simulator.replay import ObserverFactory

# The last steps of a run, which bound the file.
STEPS_MAX = 100_000


class TimelineRecorder:
    """Records one run after the other, for comparing them."""

    def __init__(self, requests: int) -> None:
        """Record runs of so many requests."""
        self._requests = requests
        self._runs: list[tuple[str, RequestHistory, Scheduler]] = []

    def begin(self, name: str) -> ObserverFactory:
        """Start a run; return a function that makes its observer."""

        def observer(scheduler: Scheduler, clock: Callable[[], float]) -> Observer:
            history = RequestHistory(self._requests, clock, clock, STEPS_MAX)
            self._runs.append((name, history, scheduler))
            return history.observer(lambda: scheduler)

        return observer

    def text(self) -> str:
        """The file."""
        return timeline_file(map(_content, self._runs))


def _content(run: tuple[str, RequestHistory, Scheduler]) -> dict[str, Any]:
    name, history, scheduler = run
    slots = len(scheduler.cache.slots)
    return timeline_content(name, slots, scheduler.step_target, history, history.take_steps())
