"""Many requests at the same moment to a server that has nothing else to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llm_serving_engine.clients.bench.load_report import load_report
from llm_serving_engine.clients.bench.plan import Plan
from llm_serving_engine.clients.bench.record import PhaseRecord
from llm_serving_engine.clients.bench.report import Report
from llm_serving_engine.clients.bench.settings import Settings
from llm_serving_engine.clients.bench.workloads import steady

CLIENTS = (64,)


def plan(settings: Settings) -> Plan:
    """Rounds times numbers of requests."""
    return steady.plan(replace(settings, clients=settings.clients or CLIENTS))


def report(phases: Sequence[PhaseRecord]) -> Report:
    """A row for each number of requests."""
    return load_report("A burst of requests", phases)
