"""The effect of a long prompt on running streams.

`before` are the gaps from when all streams run to when the long prompt is sent;
`while` those that reach into the time from then to its first token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from llm_serving_engine.clients.bench import measures
from llm_serving_engine.clients.bench.figures import TIME, Figure, Figures
from llm_serving_engine.clients.bench.measures import Gap, Spread
from llm_serving_engine.clients.bench.plan import Gate, Phase, Plan, PlannedRequest
from llm_serving_engine.clients.bench.prompts import prompt
from llm_serving_engine.clients.bench.record import PhaseRecord
from llm_serving_engine.clients.bench.report import Report, counts, milliseconds
from llm_serving_engine.clients.bench.settings import Settings

RUNNING, LONG = "running", "long"
RUNNING_TOKENS_MAX = 512  # enough to outlast the long prompt, which is when they are left
TOKENS_BEFORE = 16  # of each running stream, before the long prompt is sent
LONG_TOKENS = 4

COLUMNS = (
    "round",
    "gap before p50 ms",
    "max",
    "gap while p50 ms",
    "p99",
    "max",
    "long TTFT ms",
    "errors",
)


@dataclass(frozen=True, slots=True)
class Interference:
    """One round; all times in seconds.

    Attributes:
        before: The running streams' gaps before the long prompt.
        during: Their gaps while it came in.
        time_to_first_token: The long prompt's; None where it failed.
        ended_early: Running streams that did not last until its first token.
        errors: Requests that failed, by code.
    """

    before: Spread
    during: Spread
    time_to_first_token: float | None
    ended_early: int
    errors: dict[str, int]


def plan(settings: Settings) -> Plan:
    """Rounds."""
    return tuple(_phase(settings, number) for number in range(settings.rounds))


def _phase(settings: Settings, number: int) -> Phase:
    first = number * (settings.streams + 1)
    running = (
        PlannedRequest(
            prompt(first + stream, settings.prompt_words, settings.seed),
            RUNNING_TOKENS_MAX,
            label=RUNNING,
            until=Gate(LONG, LONG_TOKENS),
        )
        for stream in range(settings.streams)
    )
    long = PlannedRequest(
        prompt(first + settings.streams, settings.long_words, settings.seed),
        LONG_TOKENS,
        label=LONG,
        after=Gate(RUNNING, TOKENS_BEFORE),
    )
    lanes = (*((request,) for request in running), (long,))
    return Phase(f"{settings.streams} streams", lanes)


def report(phases: Sequence[PhaseRecord]) -> Report:
    """A row for each round."""
    rounds = list(map(interference, phases))
    worst = max((found.during.max or 0.0 for found in rounds), default=0.0)
    early = sum(found.ended_early for found in rounds)
    notes = [f"worst gap while the long prompt came in: {milliseconds(worst)} ms"]
    if early:
        notes.append(f"{early} running streams ended before the long prompt's first token")
    return Report(
        title="Interference of a long prompt with running streams",
        columns=COLUMNS,
        rows=tuple(_row(number, found) for number, found in enumerate(rounds, 1)),
        results=[{"round": number, **asdict(found)} for number, found in enumerate(rounds, 1)],
        errors=measures.failures(record for phase in phases for record in phase.requests),
        notes=tuple(notes),
    )


def interference(phase: PhaseRecord) -> Interference:
    """What one round says."""
    running = [record for record in phase.requests if record.label == RUNNING]
    (long,) = (record for record in phase.requests if record.label == LONG)
    firsts = [record.arrivals[0].time for record in running if record.arrivals]
    all_run = max(firsts, default=long.sent)
    come_in = long.arrivals[0].time if long.arrivals else long.ended
    gaps = [gap for record in running for gap in measures.gaps(record)]
    return Interference(
        before=_spread(gap for gap in gaps if gap.start >= all_run and gap.end <= long.sent),
        during=_spread(gap for gap in gaps if gap.end > long.sent and gap.start < come_in),
        time_to_first_token=measures.time_to_first_token(long),
        ended_early=sum(record.ended < come_in for record in running),
        errors=measures.errors(phase.requests),
    )


def figures(phase: PhaseRecord) -> Figures:
    """By which two servers are compared."""
    found = interference(phase)
    return (
        Figure("worst gap while the long prompt comes in", TIME, found.during.max),
        Figure("gap p99 while", TIME, found.during.p99),
        Figure("gap p50 while", TIME, found.during.p50),
        Figure("gap p50 before", TIME, found.before.p50),
        Figure("long prompt's TTFT", TIME, found.time_to_first_token),
    )


def _spread(gaps: Iterable[Gap]) -> Spread:
    return measures.spread(gap.seconds for gap in gaps)


def _row(number: int, found: Interference) -> tuple[str, ...]:
    before, during = found.before, found.during
    return (
        str(number),
        *map(milliseconds, (before.p50, before.max, during.p50, during.p99, during.max)),
        milliseconds(found.time_to_first_token),
        counts(found.errors),
    )
