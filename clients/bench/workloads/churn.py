"""Clients that arrive and leave, with prompts and answers of all lengths.

Each client sends a few requests, one after the other, so that slots become
free in no order. The same seed gives the same requests, for comparing two
configurations of a server, such as with and without compaction.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from llm_serving_engine.clients.bench.load_report import load_report
from llm_serving_engine.clients.bench.plan import Lane, Phase, Plan, PlannedRequest
from llm_serving_engine.clients.bench.prompts import prompt
from llm_serving_engine.clients.bench.record import PhaseRecord
from llm_serving_engine.clients.bench.report import Report
from llm_serving_engine.clients.bench.settings import Settings

CLIENTS = (8,)
REQUESTS = 6  # of each client in a round
SHORTEST, LONGEST = 0.125, 1.875  # of the lengths asked for, which are so the mean


def plan(settings: Settings) -> Plan:
    """Rounds times numbers of clients."""
    numbers, draw = itertools.count(), random.Random(f"churn/{settings.seed}")
    return tuple(
        Phase(str(clients), tuple(_lane(settings, numbers, draw) for _ in range(clients)))
        for _ in range(settings.rounds)
        for clients in settings.clients or CLIENTS
    )


def report(phases: Sequence[PhaseRecord]) -> Report:
    """A row for each number of clients."""
    return load_report("Churn: prompts and answers of all lengths", phases)


def _lane(settings: Settings, numbers: Iterator[int], draw: random.Random) -> Lane:
    return tuple(
        PlannedRequest(
            prompt(next(numbers), _length(settings.prompt_words, draw), settings.seed),
            _length(settings.max_tokens, draw),
        )
        for _ in range(REQUESTS)
    )


def _length(mean: int, draw: random.Random) -> int:
    return max(1, round(mean * draw.uniform(SHORTEST, LONGEST)))
