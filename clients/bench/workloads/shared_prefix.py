"""Many users at once whose prompts begin alike, as with a common instruction.

Each round has a prefix of its own, so that the server meets it cold.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from llm_serving_engine.clients.bench import measures
from llm_serving_engine.clients.bench.figures import SHARE, TIME, Figure, Figures, of_spread
from llm_serving_engine.clients.bench.measures import Spread
from llm_serving_engine.clients.bench.plan import Phase, Plan, PlannedRequest
from llm_serving_engine.clients.bench.prompts import prompt
from llm_serving_engine.clients.bench.record import PhaseRecord, PromptTokens
from llm_serving_engine.clients.bench.report import Report, counts, percent, spread_milliseconds
from llm_serving_engine.clients.bench.settings import Settings

CLIENTS = (16,)

COLUMNS = (
    "clients",
    "seconds",
    "TTFT p50 ms",
    "p95",
    "p99",
    "max",
    "prompt tokens",
    "cached",
    "share",
    "errors",
)


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """One round; all times in seconds.

    Attributes:
        seconds: From the first sending until all are done.
        time_to_first_token: Over the round's requests.
        prompt_tokens: Of the requests that finished.
        errors: Requests that failed, by code.
    """

    seconds: float
    time_to_first_token: Spread
    prompt_tokens: PromptTokens
    errors: dict[str, int]


def plan(settings: Settings) -> Plan:
    """Rounds times numbers of clients."""
    numbers = itertools.count()
    return tuple(
        _phase(settings, clients, numbers)
        for _ in range(settings.rounds)
        for clients in settings.clients or CLIENTS
    )


def _phase(settings: Settings, clients: int, numbers: Iterator[int]) -> Phase:
    prefix = prompt(next(numbers), settings.prefix_words, settings.seed)
    ends = (prompt(next(numbers), settings.prompt_words, settings.seed) for _ in range(clients))
    return Phase(
        str(clients),
        tuple((PlannedRequest(f"{prefix} {end}", settings.max_tokens),) for end in ends),
    )


def report(phases: Sequence[PhaseRecord]) -> Report:
    """A row for each round."""
    rounds = [(phase.name, shared_prefix(phase)) for phase in phases]
    return Report(
        title="A common prefix, cold",
        columns=COLUMNS,
        rows=tuple(_row(name, found) for name, found in rounds),
        results=[{"clients": int(name), **asdict(found)} for name, found in rounds],
        errors=measures.failures(record for phase in phases for record in phase.requests),
    )


def shared_prefix(phase: PhaseRecord) -> SharedPrefix:
    """What one round says."""
    load = measures.load([phase])
    return SharedPrefix(
        seconds=load.seconds,
        time_to_first_token=load.time_to_first_token,
        prompt_tokens=measures.prompt_tokens(phase.requests),
        errors=load.errors,
    )


def figures(phase: PhaseRecord) -> Figures:
    """By which two servers are compared."""
    found = shared_prefix(phase)
    tokens = found.prompt_tokens
    cached = tokens.cached / tokens.total if tokens.total else None
    return (
        Figure("until all are done", TIME, found.seconds),
        *of_spread("TTFT", found.time_to_first_token),
        Figure("cached", SHARE, cached, True),
    )


def _row(clients: str, found: SharedPrefix) -> tuple[str, ...]:
    ttft, tokens = found.time_to_first_token, found.prompt_tokens
    return (
        clients,
        f"{found.seconds:.2f}",
        *spread_milliseconds(ttft),
        str(tokens.total),
        str(tokens.cached),
        percent(tokens.cached, tokens.total),
        counts(found.errors),
    )
