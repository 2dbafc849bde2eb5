"""The workloads there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from llm_serving_engine.clients.bench.plan import Plan
from llm_serving_engine.clients.bench.record import PhaseRecord
from llm_serving_engine.clients.bench.report import Report
from llm_serving_engine.clients.bench.settings import Settings
from llm_serving_engine.clients.bench.workloads import (
    churn,
    determinism,
    fairness,
    interference,
    priority,
    shared_prefix,
    throughput,
)


class Workload(Protocol):
    """What a module of this package has."""

    def plan(self, settings: Settings) -> Plan:
        """What to send, and when."""

    def report(self, phases: Sequence[PhaseRecord]) -> Report:
        """What came of it."""


WORKLOADS: dict[str, Workload] = {
    "throughput": throughput,
    "interference": interference,
    "shared-prefix": shared_prefix,
    "priority": priority,
    "determinism": determinism,
    "fairness": fairness,
    "churn": churn,
}
