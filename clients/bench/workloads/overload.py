"""More requests than the server can answer, each with a deadline.

They come at random (Poisson), and do not wait for one another: an open loop. Unless a rate is
given, it is twice what clients that fill all slots of the server got before.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from llm_serving_engine.clients.bench import measures
from llm_serving_engine.clients.bench.figures import COUNT, RATE, Figure, Figures, of_spread
from llm_serving_engine.clients.bench.loop import closed_loop
from llm_serving_engine.clients.bench.measures import Spread
from llm_serving_engine.clients.bench.plan import Lane, Phase, Plan, PlannedRequest
from llm_serving_engine.clients.bench.prompts import prompt
from llm_serving_engine.clients.bench.record import DEADLINE_EXCEEDED, PhaseRecord, Record
from llm_serving_engine.clients.bench.report import Report, counts, milliseconds, percent
from llm_serving_engine.clients.bench.settings import Settings

OVERLOAD = 2.0  # times what the server can do
SECONDS = 30.0
CAPACITY_SECONDS = 10.0  # of measuring that, at most
DEADLINE_SECONDS = 10.0
RATE_MIN = 0.1  # requests a second, where the measuring saw no output

COLUMNS = (
    "sent",
    "in time",
    "late",
    "refused",
    "share in time",
    "goodput tokens/s",
    "TTFT p50 ms",
    "p99",
    "max",
    "refusal p50 ms",
    "p99",
    "max",
    "with a time to retry",
    "errors",
)


@dataclass(frozen=True, slots=True)
class Overload:
    """What came of the requests; times in seconds.

    Attributes:
        requests: Those that were sent.
        in_time: Those whose whole answer came within the deadline.
        late: Those whose deadline passed, whether they had begun or not.
        refused: Those that the server would not take.
        goodput: Tokens a second, of those in time.
        tokens_per_second: The same, of all.
        time_to_first_token: Of those that got one.
        refusal: From the sending to the refusal.
        retry_info: Refusals that say when to come again.
        errors: Requests that were not answered, by code.
    """

    requests: int
    in_time: int
    late: int
    refused: int
    goodput: float
    tokens_per_second: float
    time_to_first_token: Spread
    refusal: Spread
    retry_info: int
    errors: dict[str, int]


def calibration(settings: Settings) -> Plan:
    """What measures the server's capacity; nothing where the rate is given."""
    if settings.rate is not None:
        return ()
    seconds = min(settings.seconds or SECONDS, CAPACITY_SECONDS)
    request = PlannedRequest("", settings.max_tokens)
    # With a seed of its own, so that nothing of it is found in a cache later.
    other = replace(settings, seed=settings.seed + 1_000_000)
    numbers = itertools.count()
    lanes = (closed_loop(request, numbers, other, seconds) for _ in range(settings.slots))
    return (Phase("capacity", tuple(lanes), seconds),)


def calibrated(settings: Settings, phases: Sequence[PhaseRecord]) -> Settings:
    """With the rate that follows."""
    if settings.rate is not None:
        return settings
    capacity = measures.load(phases).tokens_per_second / settings.max_tokens
    return replace(settings, rate=max(OVERLOAD * capacity, RATE_MIN))


def plan(settings: Settings) -> Plan:
    """One phase, in which every request is a client of its own."""
    draw = random.Random(f"overload/{settings.seed}")
    rate, seconds = settings.rate or RATE_MIN, settings.seconds or SECONDS
    deadline = settings.deadline or DEADLINE_SECONDS
    now, lanes = draw.expovariate(rate), list[Lane]()
    while now < seconds or not lanes:
        text = prompt(len(lanes), settings.prompt_words, settings.seed)
        lanes.append((PlannedRequest(text, settings.max_tokens, at=now, deadline=deadline),))
        now += draw.expovariate(rate)
    return (Phase(f"{rate:.2f}/s", tuple(lanes)),)


def report(phases: Sequence[PhaseRecord]) -> Report:
    """One row."""
    found = overload(phases)
    records = [record for phase in phases for record in phase.requests]
    return Report(
        title=f"Overload: {phases[0].name} come in, {records[0].deadline:g} s to answer",
        columns=COLUMNS,
        rows=(_row(found),),
        results=[asdict(found)],
        errors=measures.failures(records),
        notes=("late and refused requests are expected in an overload, and are not failures",),
    )


def overload(phases: Sequence[PhaseRecord]) -> Overload:
    """What all rounds say."""
    records = [record for phase in phases for record in phase.requests]
    refused = [record for record in records if record.refused]
    load = measures.load(phases)
    return Overload(
        requests=len(records),
        in_time=load.in_time,
        late=sum(map(_late, records)),
        refused=len(refused),
        goodput=load.goodput,
        tokens_per_second=load.tokens_per_second,
        time_to_first_token=load.time_to_first_token,
        refusal=measures.spread(record.ended - record.sent for record in refused),
        retry_info=sum(record.retry_after is not None for record in refused),
        errors=load.errors,
    )


def figures(phase: PhaseRecord) -> Figures:
    """By which two servers are compared."""
    found = overload([phase])
    return (
        Figure("goodput", RATE, found.goodput, True),
        Figure("in time", COUNT, found.in_time, True),
        Figure("late", COUNT, found.late),
        *of_spread("TTFT", found.time_to_first_token),
        *of_spread("refusal", found.refusal),
    )


def _late(record: Record) -> bool:
    too_late = record.finished and not record.in_time
    return too_late or (record.error == DEADLINE_EXCEEDED and not record.refused)


def _row(found: Overload) -> tuple[str, ...]:
    ttft, refusal = found.time_to_first_token, found.refusal
    return (
        str(found.requests),
        str(found.in_time),
        str(found.late),
        str(found.refused),
        percent(found.in_time, found.requests),
        f"{found.goodput:.1f}",
        *map(milliseconds, (ttft.p50, ttft.p99, ttft.max)),
        *map(milliseconds, (refusal.p50, refusal.p99, refusal.max)),
        f"{found.retry_info} of {found.refused}" if found.refused else "-",
        counts(found.errors),
    )
