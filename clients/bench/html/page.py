"""Builds the HTML page from a run's outcome."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from llm_serving_engine.clients.bench.html.chart import draw
from llm_serving_engine.clients.bench.html.plots import charts
from llm_serving_engine.clients.bench.html.ratios import draw_ratios
from llm_serving_engine.clients.bench.outcome import Outcome, described
from llm_serving_engine.clients.bench.run import SIDES
from llm_serving_engine.clients.bench.show import comparison

TEMPLATE = "page.html.j2"

Rows = list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Section:
    """The pictures of one measurement, which are SVG."""

    name: str
    pictures: tuple[Markup, ...]


def page(outcome: Outcome) -> str:
    """A whole HTML document."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(TEMPLATE).render(
        outcome=outcome,
        legend=_legend(outcome),
        comparison=comparison(outcome) if outcome.comparison else None,
        ratios=Markup(draw_ratios(outcome.comparison)) if outcome.comparison else "",
        sections=_sections(outcome),
        servers=_servers(outcome),
        run=_run(outcome),
        settings=[(key, _word(value)) for key, value in asdict(outcome.settings).items()],
    )


def _legend(outcome: Outcome) -> list[str]:
    if len(outcome.servers) == 1:
        return [described(outcome.servers[0].facts)]
    return [
        f"{side} server: {described(server.facts)}"
        for side, server in zip(SIDES, outcome.servers, strict=True)
    ]


def _sections(outcome: Outcome) -> list[Section]:
    """One for each name of phases, in the plan's order."""
    phases = [server.phases for server in outcome.servers]
    found = []
    for name in dict.fromkeys(phase.name for phase in phases[0]):
        repetitions = [[phase for phase in one if phase.name == name] for one in phases]
        pictures = charts(repetitions, SIDES[: len(phases)])
        found.append(Section(name, tuple(Markup(draw(chart)) for chart in pictures)))
    return found


def _servers(outcome: Outcome) -> Rows:
    """What the servers say of themselves, a row for each thing that one of them says."""
    told = [
        {key: value for key, value in asdict(one.facts).items() if key != "details"}
        | (one.facts.details or {})
        for one in outcome.servers
    ]
    keys = dict.fromkeys(key for one in told for key in one)
    rows = [(key, *(_word(one.get(key)) for one in told)) for key in keys]
    return [row for row in rows if any(row[1:])]


def _run(outcome: Outcome) -> Rows:
    run, machine = outcome.run, outcome.run.machine
    memory = machine.memory_bytes
    rows = [
        ("date", run.date),
        ("command", run.command),
        ("CPU", f"{machine.cpu}, {machine.cores} cores"),
        ("memory", f"{memory / 2**30:.1f} GiB" if memory else ""),
        ("system", machine.system),
        ("governor", machine.governor),
        ("load average before", _word(machine.load_average)),
        ("Python", machine.python),
        *run.versions.items(),
        ("first words of every prompt", run.nonce),
    ]
    return [row for row in rows if row[1]]


def _word(value: Any) -> str:
    if value is None or value == "" or value == ():
        return ""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
