"""One run of the load generator, from settings to records."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from llm_serving_engine.clients.bench.drive import drive
from llm_serving_engine.clients.bench.plan import Phase, Plan, PlannedRequest, with_deadline
from llm_serving_engine.clients.bench.plan import with_nonce as plan_with_nonce
from llm_serving_engine.clients.bench.record import PhaseRecord
from llm_serving_engine.clients.bench.settings import Settings
from llm_serving_engine.clients.bench.target import Target
from llm_serving_engine.clients.bench.words import prompt
from llm_serving_engine.clients.bench.workloads import Workload

WARM_UP_WORDS = 16
WARM_UP_TOKENS = 8
SETTLE_SECONDS = 1.0  # between two servers: what one still does for those who left is its own

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
        settle: Seconds between two targets.

    Raises:
        TargetError: In the warm-up.
    """
    ended, total = 0, 0

    async def carry_out(phase: Phase, target: int, of: str) -> PhaseRecord:
        def count() -> None:
            nonlocal ended
            ended += 1
            on_progress(ended, total, of)

        on_progress(ended, total, of)
        return await drive(phase, targets[target], count)

    first = _prepared(workload.calibration(settings), settings, nonce)
    total = sum(phase.requests for phase in first)
    widest = max(len(phase.lanes) for phase in first or workload.plan(settings))
    for target in targets:
        # More than it has slots would wait, and may be refused.
        await warm_up(target, min(widest, settings.slots))
    found = [await carry_out(phase, 0, phase.name) for phase in first]
    settings = workload.calibrated(settings, found)

    plan = _prepared(_plan(workload, settings, comparing=len(targets) > 1), settings, nonce)
    total += len(targets) * sum(phase.requests for phase in plan)
    records: list[list[PhaseRecord]] = [[] for _ in targets]
    for turn, (phase, number) in enumerate(_turns(plan, len(targets))):
        if turn and len(targets) > 1:
            await asyncio.sleep(settle)
        side = f", {SIDES[number]} server" if len(targets) > 1 else ""
        records[number].append(await carry_out(phase, number, phase.name + side))
    return Measured(settings, tuple(map(tuple, records)))


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


def _prepared(plan: Plan, settings: Settings, nonce: str) -> Plan:
    if nonce:
        plan = plan_with_nonce(plan, nonce)
    return plan if settings.deadline is None else with_deadline(plan, settings.deadline)


async def warm_up(target: Target, streams: int) -> None:
    """That many short streams at once. Raises TargetError."""

    async def stream(number: int) -> None:
        request = PlannedRequest(prompt(number, WARM_UP_WORDS, seed=0), WARM_UP_TOKENS)
        async with aclosing(target.stream(request)) as outputs:
            async for _ in outputs:
                pass

    await asyncio.gather(*map(stream, range(streams)))
