"""All that a run has found, ready to be shown, written, and drawn."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from llm_serving_engine.clients.bench import measures
from llm_serving_engine.clients.bench.compare import Comparison, compare
from llm_serving_engine.clients.bench.facts import RunFacts
from llm_serving_engine.clients.bench.load_report import load_report
from llm_serving_engine.clients.bench.record import PhaseRecord
from llm_serving_engine.clients.bench.report import Report, counts
from llm_serving_engine.clients.bench.run import Measured
from llm_serving_engine.clients.bench.settings import Settings
from llm_serving_engine.clients.bench.target import ServerFacts
from llm_serving_engine.clients.bench.workloads import Workload


@dataclass(frozen=True, slots=True)
class ServerOutcome:
    """Of one server.

    Attributes:
        facts: What it is.
        phases: What came, in the plan's order.
        report: The workload's.
        load: Rates, times, and errors, by phase.
    """

    facts: ServerFacts
    phases: tuple[PhaseRecord, ...]
    report: Report
    load: Report

    @property
    def reports(self) -> tuple[Report, ...]:
        """Those that say different things."""
        if self.report.rows == self.load.rows:
            return (self.report,)
        return (self.report, self.load)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a run.

    Attributes:
        workload: Its name.
        settings: What it was run with.
        run: When and where.
        servers: One, or this and the other.
        comparison: Of the two; empty where there is one.
    """

    workload: str
    settings: Settings
    run: RunFacts
    servers: tuple[ServerOutcome, ...]
    comparison: tuple[Comparison, ...]

    @property
    def failure(self) -> str:
        """What makes the run a failed one; empty where nothing does."""
        failed: Counter[str] = Counter()
        for server in self.servers:
            failed.update(server.report.errors)
        found = [f"requests failed: {counts(failed)}"] if failed else []
        return "; ".join(found + [one.report.failure for one in self.servers if one.report.failure])

    def json(self) -> dict[str, Any]:
        """For programs; times in seconds."""
        this, *others = map(_server, self.servers)
        return {
            "workload": self.workload,
            "settings": asdict(self.settings),
            "run": asdict(self.run),
            **this,
            "against": others[0] if others else None,
            "comparison": [
                {**asdict(one), "ratio": one.ratio, "ratios": one.ratios} for one in self.comparison
            ],
        }


def outcome(
    name: str,
    workload: Workload,
    measured: Measured,
    servers: tuple[ServerFacts, ...],
    run: RunFacts,
) -> Outcome:
    """What the records of a run say."""
    this, *others = measured.records
    comparison = compare(this, others[0], workload.figures) if others else ()
    return Outcome(
        workload=name,
        settings=measured.settings,
        run=run,
        servers=tuple(
            ServerOutcome(
                facts,
                phases,
                workload.report(phases),
                load_report("Load, by phase", phases, of="phase"),
            )
            for facts, phases in zip(servers, measured.records, strict=True)
        ),
        comparison=comparison,
    )


def described(facts: ServerFacts) -> str:
    """A server in one line."""
    count = f"{facts.slots} " if facts.slots else ""
    context = f" of {facts.context} tokens" if facts.context else ""
    shape = f"{count}slots{context}" if count or context else ""
    found = (facts.model, facts.weights, shape)
    head = " ".join(word for word in (facts.kind, facts.version, "at", facts.address) if word)
    return ": ".join(part for part in (head, ", ".join(word for word in found if word)) if part)


def _server(server: ServerOutcome) -> dict[str, Any]:
    return {
        "server": asdict(server.facts),
        "results": server.report.results,
        "load": server.load.results,
        "client_cpu_seconds": sum(phase.cpu_seconds for phase in server.phases),
        "prompt_tokens": asdict(
            measures.prompt_tokens(one for phase in server.phases for one in phase.requests)
        ),
    }
