"""The service of two tenants when one of them sends many times as much.

Each tenant's clients send one request after the other. The one with few has
more of them than half the slots: given its half, it still waits. Service is
counted only while both wait, which is what fairness is about: while a request
of each has been sent and has no token yet.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from llm_serving_engine.clients.bench import measures
from llm_serving_engine.clients.bench.figures import RATE, SHARE, Figure, Figures, of_spread
from llm_serving_engine.clients.bench.loop import closed_loop
from llm_serving_engine.clients.bench.measures import Spread
from llm_serving_engine.clients.bench.plan import Lane, Phase, Plan, PlannedRequest
from llm_serving_engine.clients.bench.record import PhaseRecord, Record
from llm_serving_engine.clients.bench.report import Report, counts, milliseconds
from llm_serving_engine.clients.bench.settings import Settings

FEW, MANY = "bench-few", "bench-many"
SECONDS = 20.0

COLUMNS = ("tenant", "sent", "finished", "tokens", "tokens/s", "ratio", "TTFT p50 ms", "errors")

Span = tuple[float, float]
"""From when, until when."""


@dataclass(frozen=True, slots=True)
class Service:
    """What one tenant got.

    Attributes:
        tenant: Its name.
        requests: Those that it sent.
        finished: Those whose whole answer came.
        output_tokens: Tokens that came while both waited.
        tokens_per_second: The same, by that time; None where they never did.
        time_to_first_token: In seconds, over all of the run.
        errors: Requests that failed, by code.
    """

    tenant: str
    requests: int
    finished: int
    output_tokens: int
    tokens_per_second: float | None
    time_to_first_token: Spread
    errors: dict[str, int]


def plan(settings: Settings) -> Plan:
    """One phase, in which the tenants' clients begin in turn: neither gets all slots at first."""
    numbers = itertools.count()
    seconds = settings.seconds or SECONDS

    def lane(tenant: str) -> Lane:
        request = PlannedRequest("", settings.max_tokens, label=tenant, tenant=tenant)
        return closed_loop(request, numbers, settings, seconds)

    few = settings.slots // 2 + 2
    rest = few * (settings.ratio - 1)
    return (Phase("1", tuple(map(lane, [FEW, MANY] * few + [MANY] * rest)), seconds),)


def report(phases: Sequence[PhaseRecord]) -> Report:
    """A row for each tenant."""
    records = [record for phase in phases for record in phase.requests]
    found, seconds = _services(records)
    first = found[0].tokens_per_second
    ratio = (found[1].tokens_per_second or 0.0) / first if first else None
    return Report(
        title="Two tenants, one of which sends more",
        columns=COLUMNS,
        rows=tuple(_row(one, first) for one in found),
        results=[*map(asdict, found), {"both_waited_seconds": seconds, "ratio": ratio}],
        errors=measures.failures(records),
        notes=(f"tokens are those of the {seconds:.1f} s in which both waited",),
    )


def _services(records: Sequence[Record]) -> tuple[list[Service], float]:
    """Of both tenants, and for how many seconds both waited."""
    few, many = ([one for one in records if one.label == tenant] for tenant in (FEW, MANY))
    spans = overlap(waiting(few), waiting(many))
    seconds = sum(end - start for start, end in spans)
    return [service(FEW, few, spans), service(MANY, many, spans)], seconds


def figures(phase: PhaseRecord) -> Figures:
    """By which two servers are compared."""
    (few, many), _ = _services(phase.requests)
    first = few.tokens_per_second
    ratio = (many.tokens_per_second or 0.0) / first if first else None
    return (
        Figure("output", RATE, measures.load([phase]).tokens_per_second, True),
        Figure("what the greedy one gets, by the other's", SHARE, ratio),
        *of_spread("TTFT of the other", few.time_to_first_token),
    )


def service(tenant: str, records: Sequence[Record], spans: Sequence[Span]) -> Service:
    """What the tenant of these records got in these spans."""
    tokens = sum(
        arrival.tokens
        for record in records
        for arrival in record.arrivals
        if any(start < arrival.time <= end for start, end in spans)
    )
    seconds = sum(end - start for start, end in spans)
    return Service(
        tenant=tenant,
        requests=len(records),
        finished=sum(record.finished for record in records),
        output_tokens=tokens,
        tokens_per_second=tokens / seconds if seconds else None,
        time_to_first_token=measures.spread(measures.times_to_first_token(records)),
        errors=measures.errors(records),
    )


def waiting(records: Iterable[Record]) -> list[Span]:
    """When any of them had been sent and had no token, as spans in order that do not touch."""
    spans: list[Span] = []
    waits = (
        (record.sent, record.arrivals[0].time if record.arrivals else record.ended)
        for record in records
    )
    for start, end in sorted(waits):
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end))
        else:
            spans.append((start, end))
    return spans


def overlap(some: Iterable[Span], others: Sequence[Span]) -> list[Span]:
    """What lies in both."""
    pairs = itertools.product(some, others)
    common = ((max(one[0], other[0]), min(one[1], other[1])) for one, other in pairs)
    return [(start, end) for start, end in common if start < end]


def _row(found: Service, first: float | None) -> tuple[str, ...]:
    rate = found.tokens_per_second
    return (
        found.tenant,
        str(found.requests),
        str(found.finished),
        str(found.output_tokens),
        "-" if rate is None else f"{rate:.1f}",
        "-" if rate is None or not first else f"{rate / first:.2f}",
        milliseconds(found.time_to_first_token.p50),
        counts(found.errors),
    )
