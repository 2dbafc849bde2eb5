"""Makes an example trace: two tenants, one with ten times the requests of the other."""

from __future__ import annotations

import random

from llm_serving_engine.scheduler.request import Priority
from llm_serving_engine.server.simulator.trace import TraceRecord

# The requests of class NORMAL come in a burst, the others over a longer time.
BURST_SECONDS, SECONDS = 5.0, 60.0
# Requests of each tenant.
TENANTS = {"greedy": 240, "modest": 24}
# Of a hundred requests, how many are of a class.
CLASSES = {Priority.LOW: 10, Priority.NORMAL: 75, Priority.HIGH: 10, Priority.CRITICAL: 5}


def example_trace(seed: int = 1) -> list[TraceRecord]:
    """A small trace, the same for the same seed, in the order of arrival."""
    dice = random.Random(seed)
    records = [_record(tenant, dice) for tenant, count in TENANTS.items() for _ in range(count)]
    return sorted(records, key=lambda record: record.at)


def _record(tenant: str, dice: random.Random) -> TraceRecord:
    """Every third with a system prompt that others have too, every fourth with a deadline."""
    priority = dice.choices(list(CLASSES), list(CLASSES.values()))[0]
    seconds = BURST_SECONDS if priority is Priority.NORMAL else SECONDS
    max_tokens = dice.choice((32, 64, 96))
    shared = 160 if dice.random() < 1 / 3 else 0
    return TraceRecord(
        at=round(dice.uniform(0, seconds), 3),
        prompt_tokens=shared + min(int(dice.lognormvariate(4, 0.8)) + 1, 1000),
        output_tokens=dice.randint(max_tokens // 4, max_tokens),
        max_tokens=max_tokens,
        tenant=tenant,
        priority=priority,
        prefix={f"{tenant}-{dice.randint(1, 2)}": shared} if shared else {},
        deadline=float(dice.choice((15, 30, 60))) if dice.random() < 1 / 4 else None,
    )
