"""The effect of an overload of a low class on requests of a high class.

First an idle server gets HIGH requests, one at a time; then four times as many
LOW clients as it has slots keep it busy, while one client goes on as before.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass

from llm_serving_engine.clients.bench import measures
from llm_serving_engine.clients.bench.figures import RATE, Figure, Figures, of_spread
from llm_serving_engine.clients.bench.loop import REQUESTS_PER_SECOND_MAX, closed_loop
from llm_serving_engine.clients.bench.measures import Spread
from llm_serving_engine.clients.bench.plan import Lane, Phase, Plan, PlannedRequest
from llm_serving_engine.clients.bench.prompts import prompt
from llm_serving_engine.clients.bench.record import PhaseRecord, Record
from llm_serving_engine.clients.bench.report import Report, counts, spread_milliseconds
from llm_serving_engine.clients.bench.settings import Settings

IDLE, LOADED = "idle", "loaded"
HIGH, LOW = "high", "low"
SECONDS = 30.0
OVERLOAD = 4  # LOW clients for each slot
HIGH_TOKENS = 8  # few: what counts is the first
PAUSE_SECONDS = (0.05, 0.25)  # before a HIGH request; drawn, so as to meet a step anywhere
SETTLE_SECONDS = 1.0  # of LOW alone, so that no slot is free

COLUMNS = ("requests", "sent", "finished", "TTFT p50 ms", "p95", "p99", "max", "errors")


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of the requests of one class in one phase; times in seconds.

    Attributes:
        requests: Those that were sent.
        finished: Those whose whole answer came.
        unanswered: Those that still waited for their first token when the time was over.
        time_to_first_token: Of the others.
        errors: Requests that failed, by code.
    """

    requests: int
    finished: int
    unanswered: int
    time_to_first_token: Spread
    errors: dict[str, int]


def plan(settings: Settings) -> Plan:
    """Idle, then loaded."""
    numbers, draw = itertools.count(), random.Random(f"priority/{settings.seed}")
    seconds = settings.seconds or SECONDS
    low = PlannedRequest("", settings.max_tokens, label=LOW, priority="low")
    lows = tuple(
        closed_loop(low, numbers, settings, seconds) for _ in range(OVERLOAD * settings.slots)
    )
    count = math.ceil(seconds * REQUESTS_PER_SECOND_MAX)
    settled = min(SETTLE_SECONDS, seconds / 10)
    return (
        Phase(IDLE, (_high(settings, settings.idle_requests, numbers, draw),)),
        Phase(LOADED, (*lows, _high(settings, count, numbers, draw, settled)), seconds),
    )


def _high(
    settings: Settings, count: int, numbers: Iterator[int], draw: random.Random, at: float = 0.0
) -> Lane:
    return tuple(
        PlannedRequest(
            prompt(next(numbers), settings.prompt_words, settings.seed),
            HIGH_TOKENS,
            label=HIGH,
            at=at,
            pause=draw.uniform(*PAUSE_SECONDS),
            priority="high",
        )
        for _ in range(count)
    )


def report(phases: Sequence[PhaseRecord]) -> Report:
    """A row for each class and load, and one for what the load costs the high class."""
    found = {
        f"{label} {name}": answers(
            [
                record
                for phase in phases
                for record in phase.requests
                if (phase.name, record.label) == (name, label)
            ]
        )
        for name, label in ((IDLE, HIGH), (LOADED, HIGH), (LOADED, LOW))
    }
    idle, loaded = (found[f"{HIGH} {name}"].time_to_first_token for name in (IDLE, LOADED))
    added = difference(loaded, idle)
    unanswered = sum(one.unanswered for name, one in found.items() if name.startswith(HIGH))
    notes = [f"{unanswered} {HIGH} requests still waited at the end"] if unanswered else []
    if idle.p99 and loaded.p99:
        notes.append(f"p99 under load is {loaded.p99 / idle.p99:.2f} times that on an idle server")
    return Report(
        title=f"{HIGH} requests under {OVERLOAD} times overload of {LOW} ones",
        columns=COLUMNS,
        rows=(
            *(_row(name, one) for name, one in found.items()),
            ("added by the load", "", "", *spread_milliseconds(added), ""),
        ),
        results=[
            *({"requests_of": name, **asdict(one)} for name, one in found.items()),
            {"added_by_the_load": asdict(added)},
        ],
        errors=measures.failures(record for phase in phases for record in phase.requests),
        notes=tuple(notes),
    )


def figures(phase: PhaseRecord) -> Figures:
    """By which two servers are compared."""
    high = answers([record for record in phase.requests if record.label == HIGH])
    load = measures.load([phase])
    return (
        *of_spread("HIGH TTFT", high.time_to_first_token),
        Figure("output", RATE, load.tokens_per_second, True),
    )


def answers(records: Sequence[Record]) -> Answers:
    """Of one class, in one phase."""
    return Answers(
        requests=len(records),
        finished=sum(record.finished for record in records),
        unanswered=sum(not record.arrivals and not record.error for record in records),
        time_to_first_token=measures.spread(measures.times_to_first_token(records)),
        errors=measures.errors(records),
    )


def difference(spread: Spread, base: Spread) -> Spread:
    """What `spread` has more than `base`, at each percentile."""
    pairs = zip(astuple(spread), astuple(base), strict=True)
    return Spread(*(None if None in (one, other) else one - other for one, other in pairs))


def _row(name: str, found: Answers) -> tuple[str, ...]:
    return (
        name,
        str(found.requests),
        str(found.finished),
        *spread_milliseconds(found.time_to_first_token),
        counts(found.errors),
    )
