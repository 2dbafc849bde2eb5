"""Runs the load generator: opens the servers, runs the workload, and makes the outcome."""

from __future__ import annotations

import random
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from llm_serving_engine.clients.bench.facts import run_facts
from llm_serving_engine.clients.bench.outcome import Outcome, outcome
from llm_serving_engine.clients.bench.prompts import WORDS
from llm_serving_engine.clients.bench.run import SETTLE_SECONDS, OnProgress, run
from llm_serving_engine.clients.bench.settings import Settings
from llm_serving_engine.clients.bench.targets import target_at
from llm_serving_engine.clients.bench.workloads import WORKLOADS

SLOTS = 16  # where the server does not tell
NONCE_WORDS = 3


@dataclass(frozen=True, slots=True)
class Servers:
    """Whom to ask.

    Attributes:
        addresses: One, or two to compare; see `targets`.
        tenant: On whose behalf, over gRPC.
        model: The model's name; empty for the server's default.
        timeout: Seconds that a request may take which has no deadline; None for no limit.
    """

    addresses: tuple[str, ...]
    tenant: str | None = None
    model: str = ""
    timeout: float | None = None


async def session(
    workload: str,
    settings: Settings,
    servers: Servers,
    arguments: Sequence[str],
    on_progress: OnProgress,
) -> Outcome:
    """Measure. Raises TargetError where a server cannot be reached or its warm-up fails."""
    salt = uuid.uuid4().hex
    async with AsyncExitStack() as stack:
        targets = [
            await stack.enter_async_context(
                await target_at(
                    address,
                    cache_salt=salt,
                    tenant=servers.tenant,
                    model=servers.model,
                    timeout=servers.timeout,
                )
            )
            for address in servers.addresses
        ]
        described = tuple([await target.describe() for target in targets])
        salted = all(target.salted for target in targets)
        nonce = "" if salted else " ".join(random.Random(salt).choices(WORDS, k=NONCE_WORDS))
        facts = run_facts(arguments, nonce)
        settings = replace(settings, slots=described[0].slots or SLOTS)
        measured = await run(
            WORKLOADS[workload], settings, targets, on_progress, nonce=nonce, settle=SETTLE_SECONDS
        )
    return outcome(workload, WORKLOADS[workload], measured, described, facts)
