"""Conversations that grow: every turn sends all of it so far.

Its prompt is that of the turn before, what the server answered to it, and the
next words of the user, who has thought about them for a while.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from llm_serving_engine.clients.bench import measures
from llm_serving_engine.clients.bench.figures import Figure, Figures, of_load, of_spread
from llm_serving_engine.clients.bench.measures import Spread
from llm_serving_engine.clients.bench.plan import Lane, Phase, Plan, PlannedRequest
from llm_serving_engine.clients.bench.prompts import prompt
from llm_serving_engine.clients.bench.record import PhaseRecord, PromptTokens, Record
from llm_serving_engine.clients.bench.report import Report, counts, percent, spread_milliseconds
from llm_serving_engine.clients.bench.settings import Settings

THINK_SECONDS = (0.5, 2.0)  # drawn, before each turn; before the first, from none on

COLUMNS = (
    "turn",
    "requests",
    "prompt tokens",
    "cached",
    "TTFT p50 ms",
    "p95",
    "p99",
    "max",
    "errors",
)


@dataclass(frozen=True, slots=True)
class Turn:
    """The turns of one number, of all conversations; times in seconds.

    Attributes:
        turn: Its number, from 1.
        requests: Those that were sent.
        prompt_tokens: Of those that finished, added up.
        time_to_first_token: Over these turns.
        errors: Requests that failed, by code.
    """

    turn: int
    requests: int
    prompt_tokens: PromptTokens
    time_to_first_token: Spread
    errors: dict[str, int]


def plan(settings: Settings) -> Plan:
    """Rounds, of conversations that are all new."""
    numbers, draw = itertools.count(), random.Random(f"chat/{settings.seed}")
    return tuple(
        Phase(
            str(settings.conversations),
            tuple(_lane(settings, numbers, draw) for _ in range(settings.conversations)),
        )
        for _ in range(settings.rounds)
    )


def _lane(settings: Settings, numbers: Iterator[int], draw: random.Random) -> Lane:
    def turn(number: int) -> PlannedRequest:
        words = prompt(next(numbers), settings.prompt_words, settings.seed)
        least, most = THINK_SECONDS
        return PlannedRequest(
            f"{words}\nAnswer:" if number == 1 else f"\nQuestion: {words}\nAnswer:",
            settings.max_tokens,
            label=str(number),
            pause=draw.uniform(least if number > 1 else 0.0, most),
            continues=number > 1,
        )

    return tuple(turn(number) for number in range(1, settings.turns + 1))


def report(phases: Sequence[PhaseRecord]) -> Report:
    """A row for each number of a turn."""
    records = [record for phase in phases for record in phase.requests]
    turns = by_turn(records)
    return Report(
        title="Conversations, by turn",
        columns=COLUMNS,
        rows=tuple(map(_row, turns)),
        results=list(map(asdict, turns)),
        errors=measures.failures(records),
    )


def by_turn(records: Sequence[Record]) -> list[Turn]:
    """What the turns say, in order."""
    numbers = sorted({int(record.label) for record in records})
    return [
        _turn(number, [record for record in records if record.label == str(number)])
        for number in numbers
    ]


def figures(phase: PhaseRecord) -> Figures:
    """By which two servers are compared."""
    first, *others = by_turn(phase.requests)
    last = others[-1] if others else first
    return (
        *(one for one in of_load(phase) if "done" not in one.name),
        *_named("TTFT of the first turn", first.time_to_first_token),
        *_named("TTFT of the last turn", last.time_to_first_token),
    )


def _named(name: str, spread: Spread) -> tuple[Figure, ...]:
    """The median and the worst."""
    return tuple(one for one in of_spread(name, spread) if one.name.endswith(("p50", "max")))


def _turn(number: int, records: Sequence[Record]) -> Turn:
    return Turn(
        turn=number,
        requests=len(records),
        prompt_tokens=measures.prompt_tokens(records),
        time_to_first_token=measures.spread(measures.times_to_first_token(records)),
        errors=measures.errors(records),
    )


def _row(found: Turn) -> tuple[str, ...]:
    tokens = found.prompt_tokens
    return (
        str(found.turn),
        str(found.requests),
        str(tokens.total),
        percent(tokens.cached, tokens.total),
        *spread_milliseconds(found.time_to_first_token),
        counts(found.errors),
    )
