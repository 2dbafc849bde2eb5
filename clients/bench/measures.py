"""Computes measures from records. Pure functions; all times are in seconds."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llm_serving_engine.clients.bench.record import PhaseRecord, PromptTokens, Record


class Gap(NamedTuple):
    """A time without output, between two arrivals of one request."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Spread:
    """How values are spread; all None where there are no values."""

    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class Load:
    """What the repetitions of a measurement say together.

    Attributes:
        requests: Requests sent.
        finished: Those whose whole answer came.
        in_time: Of these, those within their deadline; all of them where there is none.
        output_tokens: Tokens that came, those of failed requests included.
        seconds: From a repetition's first sending to its last end, added up.
        tokens_per_second: The quotient.
        goodput: The same, of the tokens of requests in time only.
        time_to_first_token: From a request's sending to its first token.
        gap: Between two arrivals of a request.
        errors: Requests that failed, by code.
        cpu_seconds: What the load generator took.
    """

    requests: int
    finished: int
    in_time: int
    output_tokens: int
    seconds: float
    tokens_per_second: float
    goodput: float
    time_to_first_token: Spread
    gap: Spread
    errors: dict[str, int]
    cpu_seconds: float


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile: the smallest value that `percent` of them do not exceed."""
    if not values:
        return None
    rank = max(1, math.ceil(percent / 100 * len(values)))
    return sorted(values)[rank - 1]


def spread(values: Iterable[float]) -> Spread:
    """Of any values."""
    ordered = sorted(values)
    return Spread(
        p50=percentile(ordered, 50),
        p95=percentile(ordered, 95),
        p99=percentile(ordered, 99),
        max=ordered[-1] if ordered else None,
    )


def time_to_first_token(record: Record) -> float | None:
    """None where no token came."""
    return record.arrivals[0].time - record.sent if record.arrivals else None


def gaps(record: Record) -> list[Gap]:
    """Between each arrival and the next."""
    times = [arrival.time for arrival in record.arrivals]
    return [Gap(*pair) for pair in itertools.pairwise(times)]


def output_tokens(records: Iterable[Record]) -> int:
    """Tokens that came."""
    return sum(record.tokens for record in records)


def times_to_first_token(records: Iterable[Record]) -> list[float]:
    """Of those that got a token."""
    return [first for first in map(time_to_first_token, records) if first is not None]


def prompt_tokens(records: Iterable[Record]) -> PromptTokens:
    """Added up, of the requests that tell."""
    told = [record.prompt_tokens for record in records if record.prompt_tokens is not None]
    return PromptTokens(
        total=sum(tokens.total for tokens in told), cached=sum(tokens.cached for tokens in told)
    )


def errors(records: Iterable[Record]) -> dict[str, int]:
    """Requests that failed, by code, in the order of the codes."""
    return dict(sorted(Counter(record.error for record in records if record.error).items()))


def failures(records: Iterable[Record]) -> dict[str, int]:
    """As `errors`, without those that requests with a deadline have to expect."""
    return errors(record for record in records if record.failed)


def load(repetitions: Sequence[PhaseRecord]) -> Load:
    """Of the repetitions of one measurement."""
    records = [record for phase in repetitions for record in phase.requests]
    seconds = sum(map(_duration, repetitions))
    tokens = output_tokens(records)
    good = output_tokens(record for record in records if record.in_time)
    return Load(
        requests=len(records),
        finished=sum(record.finished for record in records),
        in_time=sum(record.in_time for record in records),
        output_tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        goodput=good / seconds if seconds else 0.0,
        time_to_first_token=spread(times_to_first_token(records)),
        gap=spread(gap.seconds for record in records for gap in gaps(record)),
        errors=errors(records),
        cpu_seconds=sum(phase.cpu_seconds for phase in repetitions),
    )


def _duration(phase: PhaseRecord) -> float:
    if not phase.requests:
        return 0.0
    sent = min(record.sent for record in phase.requests)
    return max(record.ended for record in phase.requests) - sent
