"""The workloads there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llm_serving_engine.clients.bench.figures import Figures, of_load
from llm_serving_engine.clients.bench.plan import Plan
from llm_serving_engine.clients.bench.record import PhaseRecord
from llm_serving_engine.clients.bench.report import Report
from llm_serving_engine.clients.bench.settings import Settings
from llm_serving_engine.clients.bench.workloads import (
    burst,
    chat,
    churn,
    determinism,
    fairness,
    interference,
    overload,
    priority,
    shared_prefix,
    steady,
)


def _nothing(settings: Settings) -> Plan:
    return ()


def _unchanged(settings: Settings, phases: Sequence[PhaseRecord]) -> Settings:
    return settings


@dataclass(frozen=True, slots=True)
class Workload:
    """What a module of this package has.

    Attributes:
        plan: What to send, and when.
        report: What came of it.
        figures: What two servers are compared by, of each phase.
        calibration: What to send first, to find out what the plan needs to know.
        calibrated: The settings with what was found.
        has_rounds: Whether the plan repeats itself `settings.rounds` times. Where it does
            not, a comparison makes as many plans.
    """

    plan: Callable[[Settings], Plan]
    report: Callable[[Sequence[PhaseRecord]], Report]
    figures: Callable[[PhaseRecord], Figures] = of_load
    calibration: Callable[[Settings], Plan] = _nothing
    calibrated: Callable[[Settings, Sequence[PhaseRecord]], Settings] = _unchanged
    has_rounds: bool = True


WORKLOADS = {
    "steady": Workload(steady.plan, steady.report),
    "churn": Workload(churn.plan, churn.report),
    "burst": Workload(burst.plan, burst.report),
    "shared-prefix": Workload(shared_prefix.plan, shared_prefix.report, shared_prefix.figures),
    "interference": Workload(interference.plan, interference.report, interference.figures),
    "priority": Workload(priority.plan, priority.report, priority.figures, has_rounds=False),
    "overload": Workload(
        overload.plan,
        overload.report,
        overload.figures,
        overload.calibration,
        overload.calibrated,
        has_rounds=False,
    ),
    "chat": Workload(chat.plan, chat.report, chat.figures),
    "determinism": Workload(determinism.plan, determinism.report, has_rounds=False),
    "fairness": Workload(fairness.plan, fairness.report, fairness.figures, has_rounds=False),
}
