"""Whether the same requests get the same tokens, whatever else the server does.

Requests of all kinds are sent twice: one at a time, with nothing in the cache,
and at random moments side by side, sharing what their prompts begin with. Of
those that are left early, the tokens that came both times are compared.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import get_args

from llm_serving_engine.clients.bench import measures
from llm_serving_engine.clients.bench.plan import Gate, Phase, Plan, PlannedRequest
from llm_serving_engine.clients.bench.prompts import prompt
from llm_serving_engine.clients.bench.record import PhaseRecord, PromptTokens, Record
from llm_serving_engine.clients.bench.report import Report, counts, percent
from llm_serving_engine.clients.bench.settings import Settings
from llm_serving_engine.clients.requests import Priority

ALONE, TOGETHER = "alone", "together"
PREFIXES = 2  # few, so that one is often in some slot
SHARING = 0.6  # of the requests begin with one of the prefixes
LEFT = 0.2  # of the requests are left early
TEMPERATURES = (0.0, 0.0, 0.7, 1.0)
ARRIVAL_SECONDS = 0.02  # between two requests side by side, on average
DIFFERENCES_SHOWN = 5

COLUMNS = (
    "requests",
    "identical",
    "different",
    "tokens compared",
    "left early",
    "cached alone",
    "cached together",
    "errors",
)


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a request's two answers part: its label, the token's number, and the tokens."""

    request: str
    position: int
    alone: int
    together: int


@dataclass(frozen=True, slots=True)
class Determinism:
    """What the comparison says.

    Attributes:
        requests: As many were sent twice.
        identical: Those whose answers are the same as far as both came.
        differences: Of the others, except those that failed.
        tokens: As many were compared.
        left: Requests that were left early, one time or both.
        alone: Tokens of the prompts, one at a time.
        together: The same, side by side.
        errors: Requests that failed, by code.
    """

    requests: int
    identical: int
    differences: tuple[Difference, ...]
    tokens: int
    left: int
    alone: PromptTokens
    together: PromptTokens
    errors: dict[str, int]


def plan(settings: Settings) -> Plan:
    """The same requests twice."""
    draw = random.Random(f"determinism/{settings.seed}")
    prefixes = [
        prompt(number, draw.randint(1, 3) * settings.prompt_words, settings.seed)
        for number in range(PREFIXES)
    ]
    alone = [_request(settings, number, prefixes, draw) for number in range(settings.requests)]
    now, together = 0.0, []
    for request in alone:
        now += draw.expovariate(1 / ARRIVAL_SECONDS)
        together.append((replace(request, at=now, cache_salt=""),))
    return Phase(ALONE, (tuple(alone),)), Phase(TOGETHER, tuple(together))


def _request(
    settings: Settings, number: int, prefixes: Sequence[str], draw: random.Random
) -> PlannedRequest:
    label = str(number)
    text = prompt(PREFIXES + number, draw.randint(1, 2 * settings.prompt_words), settings.seed)
    if draw.random() < SHARING:
        text = f"{draw.choice(prefixes)} {text}"
    tokens = draw.randint(1, settings.max_tokens)
    left_after = draw.randint(1, tokens) if draw.random() < LEFT else None
    return PlannedRequest(
        text,
        tokens,
        label=label,
        until=None if left_after is None else Gate(label, left_after),
        priority=draw.choice(get_args(Priority)),
        cache_salt=f"/{label}",
        temperature=draw.choice(TEMPERATURES),
        seed=draw.getrandbits(31),
    )


def report(phases: Sequence[PhaseRecord]) -> Report:
    """One row; a failure where anything differs."""
    found = determinism(*(_numbered(phases, name) for name in (ALONE, TOGETHER)))
    shown = found.differences[:DIFFERENCES_SHOWN]
    different = len(found.differences)
    return Report(
        title="The same requests, one at a time and side by side",
        columns=COLUMNS,
        rows=(_row(found),),
        results=[asdict(found)],
        errors=found.errors,
        notes=tuple(
            f"request {one.request} parts at token {one.position}: "
            f"{one.alone} alone, {one.together} together"
            for one in shown
        ),
        failure=f"{different} of {found.requests} answers differ" if different else "",
    )


def _numbered(phases: Sequence[PhaseRecord], name: str) -> list[Record]:
    """The records of the phases of that name, with the round in the label from the second on."""
    rounds = [phase.requests for phase in phases if phase.name == name]
    return [
        replace(record, label=f"{record.label}/{number}" if number else record.label)
        for number, records in enumerate(rounds)
        for record in records
    ]


def determinism(alone: Sequence[Record], together: Sequence[Record]) -> Determinism:
    """Compare records of the same requests, paired by label."""
    others = {record.label: record for record in together}
    pairs = [(record, others[record.label]) for record in alone]
    whole = [pair for pair in pairs if not any(record.error for record in pair)]
    differences = [one for one in (_difference(*pair) for pair in whole) if one is not None]
    return Determinism(
        requests=len(pairs),
        identical=len(whole) - len(differences),
        differences=tuple(differences),
        tokens=sum(min(len(_units(one)), len(_units(other))) for one, other in whole),
        left=sum(not all(record.finished for record in pair) for pair in whole),
        alone=measures.prompt_tokens(alone),
        together=measures.prompt_tokens(together),
        errors=measures.errors([*alone, *together]),
    )


def _difference(alone: Record, together: Record) -> Difference | None:
    pairs = zip(_units(alone), _units(together), strict=False)
    for position, (one, other) in enumerate(pairs):
        if one != other:
            return Difference(alone.label, position, one, other)
    return None


def _units(record: Record) -> tuple[int, ...]:
    """What is compared: tokens, or characters where the server does not tell tokens."""
    return record.token_ids or tuple(map(ord, record.text))


def _row(found: Determinism) -> tuple[str, ...]:
    return (
        str(found.requests),
        str(found.identical),
        str(len(found.differences)),
        str(found.tokens),
        str(found.left),
        percent(found.alone.cached, found.alone.total),
        percent(found.together.cached, found.together.total),
        counts(found.errors),
    )
