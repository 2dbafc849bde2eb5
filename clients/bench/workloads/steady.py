"""The throughput with a growing number of clients.

In a round, each number of clients has its turn: a machine that slows down or
warms up does so for all of them. In a turn every client sends one request, all
at once, and each request its own prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from llm_serving_engine.clients.bench.load_report import load_report
from llm_serving_engine.clients.bench.plan import Lane, Phase, Plan, PlannedRequest
from llm_serving_engine.clients.bench.prompts import prompt
from llm_serving_engine.clients.bench.record import PhaseRecord
from llm_serving_engine.clients.bench.report import Report
from llm_serving_engine.clients.bench.settings import Settings

CLIENTS = (1, 4, 16)


def plan(settings: Settings) -> Plan:
    """Rounds times numbers of clients."""
    numbers = itertools.count()

    def lane() -> Lane:
        text = prompt(next(numbers), settings.prompt_words, settings.seed)
        return (PlannedRequest(text, settings.max_tokens),)

    return tuple(
        Phase(str(clients), tuple(lane() for _ in range(clients)))
        for _ in range(settings.rounds)
        for clients in settings.clients or CLIENTS
    )


def report(phases: Sequence[PhaseRecord]) -> Report:
    """A row for each number of clients."""
    return load_report("Clients that stream at once", phases)
