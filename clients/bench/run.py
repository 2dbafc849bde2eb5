"""One run of the load generator, from settings to records."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from llm_serving_engine.clients.bench.drive import drive
from llm_serving_engine.clients.bench.plan import (
    Phase,
    Plan,
    PlannedRequest,
    with_deadline,
    with_nonce,
)
from llm_serving_engine.clients.bench.prompts import prompt
from llm_serving_engine.clients.bench.record import PhaseRecord
from llm_serving_engine.clients.bench.settings import Settings
from llm_serving_engine.clients.bench.target import Target
from llm_serving_engine.clients.bench.workloads import Workload

WARM_UP_WORDS = 16
WARM_UP_TOKENS = 8
SETTLE_SECONDS = 1.0  # between phases whose servers may still be busy with requests that were left

SIDES = ("this", "other")

OnProgress = Callable[[int, int, str], None]
"""Told how many requests have ended, of how many, and what is being done."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was sent, and what came of it.

    Attributes:
        settings: With what calibration found.
        records: Of each target, its phases, in the plan's order.
    """

    settings: Settings
    records: tuple[tuple[PhaseRecord, ...], ...]


async def run(
    workload: Workload,
    settings: Settings,
    targets: Sequence[Target],
    on_progress: OnProgress,
    nonce: str = "",
    settle: float = SETTLE_SECONDS,
) -> Measured:
    """Warm up, and carry out the workload's plan: each phase on all targets in turn.

    Args:
        workload: What to do.
        settings: Its sizes.
        targets: One, or two to compare. Both get the same requests at the same times.
        on_progress: Called as requests end.
        nonce: Words in front of every prompt that no earlier run has sent; empty for none.
        settle: Seconds between two targets, and after a calibration.

    Raises:
        TargetError: In the warm-up.
    """
    progress = _Progress(on_progress)
    first = with_nonce(workload.calibration(settings), nonce)
    widest = max(len(phase.lanes) for phase in first or workload.plan(settings))
    for target in targets:
        # More than it has slots would wait, and may be refused.
        await warm_up(target, min(widest, settings.slots))
    progress.total += sum(phase.requests for phase in first)
    found = [await drive(phase, targets[0], progress.on(phase.name)) for phase in first]
    settings = workload.calibrated(settings, found)
    plan = with_nonce(_plan(workload, settings, comparing=len(targets) > 1), nonce)
    if settings.deadline is not None:
        plan = with_deadline(plan, settings.deadline)
    progress.total += len(targets) * sum(phase.requests for phase in plan)
    records: list[list[PhaseRecord]] = [[] for _ in targets]
    for turn, (phase, number) in enumerate(_turns(plan, len(targets))):
        if found or (turn and len(targets) > 1):
            await asyncio.sleep(settle)
        side = f", {SIDES[number]} server" if len(targets) > 1 else ""
        of = progress.on(phase.name + side)
        records[number].append(await drive(phase, targets[number], of))
    return Measured(settings, tuple(map(tuple, records)))


class _Progress:
    """Counts requests that have ended, and tells."""

    def __init__(self, on_progress: OnProgress) -> None:
        self.total = 0
        self._ended = 0
        self._on_progress = on_progress

    def on(self, what: str) -> Callable[[], None]:
        """To be called as each request of `what` ends."""

        def count() -> None:
            self._ended += 1
            self._on_progress(self._ended, self.total, what)

        self._on_progress(self._ended, self.total, what)
        return count


def _turns(plan: Plan, targets: int) -> Iterator[tuple[Phase, int]]:
    """Each phase on each target; who is first changes with each round (A B, B A, ...)."""
    rounds: Counter[str] = Counter()
    for phase in plan:
        order = range(targets)[:: -1 if rounds[phase.name] % 2 else 1]
        yield from ((phase, target) for target in order)
        rounds[phase.name] += 1


def _plan(workload: Workload, settings: Settings, comparing: bool) -> Plan:
    """The workload's; for a comparison, as many of it as there are rounds."""
    if workload.has_rounds or not comparing:
        return workload.plan(settings)
    seeds = range(settings.seed, settings.seed + settings.rounds)
    return tuple(phase for seed in seeds for phase in workload.plan(replace(settings, seed=seed)))


async def warm_up(target: Target, streams: int) -> None:
    """That many short streams at once. Raises TargetError."""

    async def stream(number: int) -> None:
        request = PlannedRequest(prompt(number, WARM_UP_WORDS, seed=0), WARM_UP_TOKENS)
        async with aclosing(target.stream(request)) as outputs:
            async for _ in outputs:
                pass

    await asyncio.gather(*map(stream, range(streams)))
