"""Summarizes replays per policy, per class, and per tenant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import Priority
from llm_serving_engine.server.simulator.replay import Outcome, Replay


@dataclass(frozen=True, slots=True)
class Summary:
    """A group of requests.

    Attributes:
        requests: How many there are.
        finished: Those that finished.
        refused: Those that were refused on arrival, by the error's label.
        ended_early: Those that began and did not finish, by the error's label.
        ttft_p50, ttft_p90, ttft_p95, ttft_p99: Seconds to the first token, of those that
            got one; None where none did.
        tpot_p50, tpot_p95: Seconds between a request's tokens, as its mean.
        deadlines: How many have one.
        deadlines_met: How many of these finished by it.
        goodput: Requests that finished in time, a second of the makespan. One
            without a deadline is in time whenever it finishes.
        good_part: The same, of all requests.
        output_tokens_per_second: Tokens produced, a second of the makespan.
    """

    requests: int
    finished: int
    refused: dict[str, int]
    ended_early: dict[str, int]
    ttft_p50: float | None
    ttft_p90: float | None
    ttft_p95: float | None
    ttft_p99: float | None
    tpot_p50: float | None
    tpot_p95: float | None
    deadlines: int
    deadlines_met: int
    goodput: float
    good_part: float
    output_tokens_per_second: float


def summary(outcomes: Sequence[Outcome], makespan: float) -> Summary:
    """The summary of some of a replay's requests, at least one."""
    first = sorted(o.first_token_seconds for o in outcomes if o.first_token_seconds is not None)
    between = sorted(o.output_token_seconds for o in outcomes if o.output_token_seconds is not None)
    good = sum(o.in_time for o in outcomes)
    seconds = max(makespan, 1e-9)
    return Summary(
        requests=len(outcomes),
        finished=sum(o.state is State.FINISHED for o in outcomes),
        refused=_labels(o for o in outcomes if o.state is None),
        ended_early=_labels(o for o in outcomes if o.state not in (None, State.FINISHED)),
        ttft_p50=percentile(first, 50),
        ttft_p90=percentile(first, 90),
        ttft_p95=percentile(first, 95),
        ttft_p99=percentile(first, 99),
        tpot_p50=percentile(between, 50),
        tpot_p95=percentile(between, 95),
        deadlines=sum(o.record.deadline is not None for o in outcomes),
        deadlines_met=sum(o.in_time for o in outcomes if o.record.deadline is not None),
        goodput=good / seconds,
        good_part=good / len(outcomes),
        output_tokens_per_second=sum(o.output_tokens for o in outcomes) / seconds,
    )


def by_class(replay: Replay) -> dict[Priority, Summary]:
    """A summary for each class that has requests, the highest first."""
    return _grouped(replay, lambda outcome: outcome.record.priority, reverse=True)


def by_tenant(replay: Replay) -> dict[str, Summary]:
    """A summary for each tenant."""
    return _grouped(replay, lambda outcome: outcome.record.tenant)


def as_json(replay: Replay) -> dict[str, Any]:
    """Everything, times in seconds, for programs."""
    totals = replay.totals
    return {
        "policy": replay.policy,
        "makespan": replay.makespan,
        "steps": replay.steps,
        "fairness_gaps": {p.name.lower(): gap for p, gap in replay.fairness_gaps.items()},
        "preemptions": totals.preemptions,
        "saved_caches": totals.saves,
        "moves": totals.moves,
        "prefix_hits": totals.prefix_hits,
        "prefix_tokens": totals.prefix_tokens,
        "all": asdict(summary(replay.outcomes, replay.makespan)),
        "classes": {p.name.lower(): asdict(s) for p, s in by_class(replay).items()},
        "tenants": {tenant: asdict(s) for tenant, s in by_tenant(replay).items()},
        "service": {tenant: list(points) for tenant, points in replay.service.items()},
    }


def percentile(ascending: Sequence[float], percent: float) -> float | None:
    """The least value that so many percent do not exceed; None of nothing."""
    if not ascending:
        return None
    rank = -(-len(ascending) * percent // 100)
    return ascending[max(int(rank), 1) - 1]


def _grouped(
    replay: Replay, key: Callable[[Outcome], Any], reverse: bool = False
) -> dict[Any, Summary]:
    groups: dict[Any, list[Outcome]] = {}
    for outcome in replay.outcomes:
        groups.setdefault(key(outcome), []).append(outcome)
    ordered = sorted(groups.items(), key=lambda item: item[0], reverse=reverse)
    return {name: summary(outcomes, replay.makespan) for name, outcomes in ordered}


def _labels(outcomes: Iterable[Outcome]) -> dict[str, int]:
    return dict(Counter(outcome.error for outcome in outcomes))
