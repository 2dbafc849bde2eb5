"""Traces through the real scheduler: what comes out is what each policy promises."""

from __future__ import annotations

import json

import pytest

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.policies.fair import (
    OUTPUT_TOKEN_WEIGHT,
    PROMPT_TOKEN_WEIGHT,
)
from llm_serving_engine.scheduler.request import Priority
from llm_serving_engine.server.simulator.costs import Costs
from llm_serving_engine.server.simulator.replay import (
    FairnessGap,
    Line,
    Outcome,
    Replay,
    replay,
)
from llm_serving_engine.server.simulator.replay_report import (
    as_json,
    by_class,
    by_tenant,
    percentile,
    summary,
)
from llm_serving_engine.server.simulator.replay_settings import SMALL, ReplaySettings
from llm_serving_engine.server.simulator.trace import TraceRecord
from llm_serving_engine.server.simulator.trace_example import example_trace

# A second for a step, whatever is in it: times can be counted.
SECOND = Costs(1.0, 0, 0, 1.0, 0, 0, 0, 0, 0)
ONE_SLOT = SMALL._replace(slots=1)
CLOCKWORK = ReplaySettings(
    ONE_SLOT,
    costs=SECOND,
    config=SchedulerConfig(step_target_seconds=1000.0, aging_seconds=1e6),
)


def record(at: float = 0.0, output: int = 3, **fields: object) -> TraceRecord:
    return TraceRecord(at, 10, output, 3, **fields)  # type: ignore[arg-type]


def outcomes_by_arrival(found: Replay) -> list[Outcome]:
    return sorted(found.outcomes, key=lambda outcome: outcome.record.at)


def test_times_are_those_of_the_steps() -> None:
    found = replay([record(), record(0.5)], "first_come", CLOCKWORK)
    first, second = outcomes_by_arrival(found)
    assert (first.first_token_seconds, first.output_token_seconds) == (1.0, 1.0)
    assert second.first_token_seconds == 3.5
    assert (found.makespan, found.steps) == (6.0, 6)
    assert all(outcome.state is State.FINISHED and outcome.in_time for outcome in found.outcomes)


@pytest.mark.parametrize(("output", "steps"), [(0, 1), (1, 2), (2, 3), (3, 3)])
def test_sequences_end_where_they_did(output: int, steps: int) -> None:
    found = replay([record(output=output)], "fair", CLOCKWORK)
    assert found.outcomes[0].output_tokens == output
    assert found.steps == steps  # the stop token takes one, where max_tokens does not end it


def test_policies_differ_in_whom_they_serve_first() -> None:
    late = record(0.5, priority=Priority.HIGH)
    records = [record(), record(0.25), late]
    waits = {
        policy: outcomes_by_arrival(replay(records, policy, CLOCKWORK))[2].first_token_seconds
        for policy in ("fair", "first_come")
    }
    # It waits for one step that has begun, and takes the slot; or for both before it.
    assert waits == {"fair": 1.5, "first_come": 6.5}


def test_refusals_and_deadlines_are_told_apart() -> None:
    records = [record(), record(0.5, deadline=1.0), record(0.6), record(0.7)]
    config = SchedulerConfig(
        queue_requests_max=1, tenant_queue_share=1.0, step_target_seconds=1000.0
    )
    settings = ReplaySettings(ONE_SLOT, costs=SECOND, config=config)
    all_of_it = summary(replay(records, "fair", settings).outcomes, 3.0)
    assert (all_of_it.requests, all_of_it.finished) == (4, 2)
    assert all_of_it.refused == {"deadline": 1, "limit_reached": 1}
    assert (all_of_it.deadlines, all_of_it.deadlines_met) == (1, 0)
    assert all_of_it.good_part == pytest.approx(1 / 2)


def test_a_prompt_beyond_the_context_is_refused() -> None:
    too_long = TraceRecord(0, 10**9, 1, 1)
    (outcome,) = replay([too_long], "fair", CLOCKWORK).outcomes
    assert (outcome.state, outcome.error) == (None, "invalid_field")


def test_common_prefixes_are_found() -> None:
    records = [TraceRecord(at, 120, 1, 2, prefix={"g": 100}) for at in (0.0, 10.0)]
    found = replay(records, "fair", CLOCKWORK)
    assert (found.totals.prefix_hits, found.totals.prefix_tokens) == (1, 100)
    # What is found in the cache is no service.
    assert found.service[""][-1] == (found.makespan, 120 + 20 + 2 * 2)


def test_only_the_fair_policy_keeps_tenants_together() -> None:
    records = [record(tenant="greedy") for _ in range(60)] + [record(tenant="modest")] * 6
    gaps = {
        policy: replay(records, policy, CLOCKWORK).fairness_gaps[Priority.NORMAL]
        for policy in ("fair", "first_come")
    }
    bound = 2 * max(PROMPT_TOKEN_WEIGHT * 10, OUTPUT_TOKEN_WEIGHT * 3)
    assert gaps["fair"] <= bound < gaps["first_come"]


def test_the_same_trace_gives_the_same_result() -> None:
    records = example_trace()[:60]
    assert as_json(replay(records, "fair")) == as_json(replay(records, "fair"))


def test_the_report_covers_every_request() -> None:
    records = example_trace()[:120]
    found = replay(records, "fair")
    assert len(found.outcomes) == len(records)
    assert sum(s.requests for s in by_class(found).values()) == len(records)
    assert sum(s.requests for s in by_tenant(found).values()) == len(records)
    assert list(by_class(found)) == sorted(by_class(found), reverse=True)
    everything = as_json(found)["all"]
    ends = (everything["refused"], everything["ended_early"])
    assert everything["finished"] + sum(sum(e.values()) for e in ends) == len(records)
    json.dumps(as_json(found))


def test_an_unknown_policy_is_an_error() -> None:
    with pytest.raises(ValueError, match="'best' is neither a policy"):
        replay([record()], "best")


def test_the_gap_is_of_the_time_in_which_both_wait() -> None:
    gap = FairnessGap(["a", "b"])
    gap.look({"a": 100.0}, {"a": 1})
    assert gap.most == 0
    gap.look({"a": 100.0}, {"a": 1, "b": 1})
    gap.look({"a": 90.0, "b": 0.0}, {"a": 1, "b": 1})
    gap.look({"a": 90.0, "b": 20.0}, {"a": 1, "b": 1})
    assert gap.most == 30
    gap.look({"a": 900.0, "b": 20.0}, {"a": 1, "b": 0})
    gap.look({"a": 900.0, "b": 20.0}, {"a": 1, "b": 1})
    assert gap.most == 30


def test_a_line_keeps_a_bounded_number_of_points() -> None:
    line = Line()
    for second in range(1, 10_001):
        line.add(float(second), 2.0 * second)
    points = line.points(10_000.0)
    assert 100 <= len(points) <= Line.POINTS_MAX + 2
    assert points[-1] == (10_000.0, 20_000.0)
    assert list(points) == sorted(points)
    assert all(value == 2 * at for at, value in points)


@pytest.mark.parametrize(
    ("percent", "value"), [(1, 1), (50, 2), (51, 3), (75, 3), (95, 4), (99, 4), (100, 4)]
)
def test_percentiles_are_values_that_were_measured(percent: float, value: float) -> None:
    assert percentile([1, 2, 3, 4], percent) == value


def test_there_is_no_percentile_of_nothing() -> None:
    assert percentile([], 50) is None
