"""One run of the load generator, from settings to report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from llm_serving_engine.clients.bench.drive import drive
from llm_serving_engine.clients.bench.plan import PlannedRequest
from llm_serving_engine.clients.bench.report import Report
from llm_serving_engine.clients.bench.settings import Settings
from llm_serving_engine.clients.bench.target import Target
from llm_serving_engine.clients.bench.words import prompt
from llm_serving_engine.clients.bench.workloads import Workload

WARM_UP_WORDS = 16
WARM_UP_TOKENS = 8
WARM_UP_STREAMS_MAX = 64

OnProgress = Callable[[int, int], None]
"""Told how many requests have ended, of how many."""


async def run(
    workload: Workload, settings: Settings, target: Target, on_progress: OnProgress
) -> Report:
    """Warm up, carry out the workload's plan, and report. Raises TargetError in the warm-up."""
    plan = workload.plan(settings)
    widest = max(len(phase.lanes) for phase in plan)
    await warm_up(target, min(widest, WARM_UP_STREAMS_MAX))
    total, ended = sum(phase.requests for phase in plan), 0

    def count() -> None:
        nonlocal ended
        ended += 1
        on_progress(ended, total)

    return workload.report([await drive(phase, target, count) for phase in plan])


async def warm_up(target: Target, streams: int) -> None:
    """That many short streams at once. Raises TargetError."""

    async def stream(number: int) -> None:
        request = PlannedRequest(prompt(number, WARM_UP_WORDS, seed=0), WARM_UP_TOKENS)
        async with aclosing(target.stream(request)) as outputs:
            async for _ in outputs:
                pass

    await asyncio.gather(*map(stream, range(streams)))
