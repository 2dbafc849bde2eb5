"""What the workloads find in records."""

from __future__ import annotations

from dataclasses import replace

from llm_serving_engine.clients.bench.measures import Spread, prompt_tokens
from llm_serving_engine.clients.bench.record import Arrival, PhaseRecord, PromptTokens, Record
from llm_serving_engine.clients.bench.report import percent
from llm_serving_engine.clients.bench.workloads import (
    chat,
    churn,
    determinism,
    fairness,
    interference,
    overload,
    priority,
    shared_prefix,
)


def record(label, sent, *times, ended=None, **values):
    arrivals = tuple(Arrival(time, 1) for time in times)
    return Record(label, sent, ended or (times[-1] if times else sent), arrivals, **values)


def answer(label, *token_ids, **values):
    return Record(label, 0.0, 1.0, (), token_ids=token_ids, **values)


def is_rectangular(report):
    return {len(row) for row in report.rows} == {len(report.columns)}


def test_prompt_tokens_are_those_of_requests_that_tell():
    told = record("", 0.0, prompt_tokens=PromptTokens(10, 4))
    assert prompt_tokens([told, record("", 0.0), told]) == PromptTokens(20, 8)
    assert prompt_tokens([]) == PromptTokens(0, 0)


def test_percent():
    assert [percent(1, 3), percent(2, 2), percent(0, 0)] == ["33 %", "100 %", "-"]


def test_shared_prefix_reports_a_row_for_each_round():
    cold = record("", 1.0, 3.0, 4.0, prompt_tokens=PromptTokens(100, 0))
    warm = record("", 1.0, 1.5, 5.0, prompt_tokens=PromptTokens(100, 50))
    phases = [PhaseRecord("2", (cold, warm)), PhaseRecord("2", (record("", 6.0, error="X"), warm))]
    report = shared_prefix.report(phases)
    assert report.rows[0] == (
        "2",
        "4.00",
        "500.0",
        "2000.0",
        "2000.0",
        "2000.0",
        "200",
        "50",
        "25 %",
        "-",
    )
    assert report.results[0]["prompt_tokens"] == {"total": 200, "cached": 50}
    assert report.results[1]["prompt_tokens"] == {"total": 100, "cached": 50}
    assert (report.errors, is_rectangular(report)) == ({"X": 1}, True)


def test_priority_tells_what_the_load_adds():
    idle = PhaseRecord("idle", tuple(record("high", 0.0, first) for first in (1.0, 1.5, 2.0)))
    high = [record("high", 10.0, 10.0 + first) for first in (2.0, 4.0)]
    waits = record("high", 20.0, ended=21.0)
    low = [record("low", 9.0, 12.0, finished=True), record("low", 9.0, error="FULL", ended=9.5)]
    report = priority.report([idle, PhaseRecord("loaded", (*low, *high, waits))])
    assert [row[:4] for row in report.rows] == [
        ("high idle", "3", "0", "1500.0"),
        ("high loaded", "3", "0", "2000.0"),
        ("low loaded", "2", "1", "3000.0"),
        ("added by the load", "", "", "500.0"),
    ]
    assert report.results[1]["unanswered"] == 1
    assert report.results[2]["errors"] == report.errors == {"FULL": 1}
    assert report.results[3]["added_by_the_load"] == {
        "p50": 0.5,
        "p95": 2.0,
        "p99": 2.0,
        "max": 2.0,
    }
    assert report.notes == (
        "1 high requests still waited at the end",
        "p99 under load is 2.00 times that on an idle server",
    )
    assert is_rectangular(report)


def test_a_difference_where_one_side_is_missing():
    none = Spread(None, None, None, None)
    assert priority.difference(none, Spread(1.0, 1.0, 1.0, 1.0)) == none


def test_determinism_compares_what_came_both_times():
    alone = [
        answer("a", 1, 2, 3, finished=True, prompt_tokens=PromptTokens(9, 0)),
        answer("b", 1, 2),
        answer("c", 1, 2, 3, finished=True),
        answer("d", 7, error="X"),
        answer("e", 1, 9, 9, finished=True),
    ]
    together = [
        answer("e", 1, 8, 7, finished=True),
        answer("d", 8, finished=True),
        answer("c", 1, 2, 4, finished=True),
        answer("b", 1, 2, 5),
        answer("a", 1, 2, 3, finished=True, prompt_tokens=PromptTokens(9, 5)),
    ]
    found = determinism.determinism(alone, together)
    assert (found.requests, found.identical, found.tokens, found.left) == (5, 2, 11, 1)
    assert found.differences == (
        determinism.Difference("c", 2, 3, 4),
        determinism.Difference("e", 1, 9, 8),
    )
    assert (found.alone, found.together) == (PromptTokens(9, 0), PromptTokens(9, 5))
    assert found.errors == {"X": 1}
    report = determinism.report(
        [PhaseRecord("alone", tuple(alone)), PhaseRecord("together", tuple(together))]
    )
    assert report.failure == "2 of 5 answers differ"
    assert report.notes[0] == "request c parts at token 2: 3 alone, 4 together"
    assert is_rectangular(report)


def test_determinism_without_a_difference_is_no_failure():
    same = PhaseRecord("", (answer("a", 1, finished=True),))
    assert determinism.report([same, same]).failure == ""


def test_waiting_joins_spans_that_touch():
    records = [
        record("", 5.0, 6.0, 9.0),
        record("", 1.0, 2.0, 4.0),
        record("", 2.0, 3.0),
        record("", 2.5, 2.75),
        record("", 7.0, ended=8.0),
    ]
    assert fairness.waiting(records) == [(1.0, 3.0), (5.0, 6.0), (7.0, 8.0)]


def test_overlap_is_what_lies_in_both():
    some, others = [(0.0, 2.0), (3.0, 6.0)], [(1.0, 4.0), (5.0, 5.5), (6.0, 7.0)]
    assert fairness.overlap(some, others) == [(1.0, 2.0), (3.0, 4.0), (5.0, 5.5)]


def test_fairness_counts_while_both_wait():
    few = [
        record("bench-few", 0.0, 2.0, 3.0, 8.0, finished=True),
        record("bench-few", 0.0, 4.0, error="X"),
    ]
    many = [
        record("bench-many", 1.0, 1.5, 2.5, 3.5, 4.5),
        record("bench-many", 1.0, 3.0, 4.0),
        record("bench-many", 1.0, 9.0),
    ]
    report = fairness.report([PhaseRecord("1", (*few, *many))])
    # Both wait from 1.0 to 4.0: few has 3 arrivals in it, many has 5.
    assert report.rows[0] == ("bench-few", "2", "1", "3", "1.0", "1.00", "2000.0", "1 X")
    assert report.rows[1] == ("bench-many", "3", "0", "5", "1.7", "1.67", "2000.0", "-")
    assert report.results[2] == {"both_waited_seconds": 3.0, "ratio": 5 / 3}
    assert report.errors == {"X": 1}
    assert is_rectangular(report)


def test_fairness_where_they_never_both_wait():
    few, many = record("bench-few", 0.0, 1.0), record("bench-many", 2.0, 3.0)
    report = fairness.report([PhaseRecord("1", (few, many))])
    assert [row[3:6] for row in report.rows] == [("0", "-", "-")] * 2
    assert report.results[2] == {"both_waited_seconds": 0, "ratio": None}


def test_churn_reports_a_row_for_each_number_of_clients():
    phases = [
        PhaseRecord("8", (record("", 0.0, 1.0, 2.0),)),
        PhaseRecord("4", (record("", 0.0, 1.0),)),
    ]
    report = churn.report(phases)
    assert [row[:2] for row in report.rows] == [("8", "1.0"), ("4", "1.0")]
    assert is_rectangular(report)


def test_overload_tells_in_time_late_and_refused():
    refusal = {"error": "RESOURCE_EXHAUSTED", "deadline": 2.0}
    unreachable = {"error": "DEADLINE_EXCEEDED", "reason": "DEADLINE_UNREACHABLE", "deadline": 2.0}
    records = [
        record("", 0.0, 1.0, 2.0, finished=True, deadline=2.0),
        record("", 0.0, 1.0, 2.5, finished=True, deadline=2.0),
        record("", 1.0, ended=3.0, error="DEADLINE_EXCEEDED", deadline=2.0),
        record("", 1.0, 2.0, ended=3.0, error="DEADLINE_EXCEEDED", deadline=2.0),
        record("", 1.0, ended=1.25, retry_after=3.0, **refusal),
        record("", 1.0, ended=1.5, **refusal),
        record("", 1.0, ended=4.0, **unreachable),
        record("", 1.0, ended=4.0, error="UNAVAILABLE", deadline=2.0),
        record("", 1.0, ended=4.0, error="INTERNAL", deadline=2.0),
    ]
    phase = PhaseRecord("9.00/s", tuple(records))
    found = overload.overload([phase])
    assert (found.requests, found.in_time, found.late, found.refused) == (9, 1, 3, 4)
    assert (found.goodput, found.tokens_per_second) == (0.5, 5 / 4)
    assert found.refusal == Spread(p50=0.5, p95=3.0, p99=3.0, max=3.0)
    assert found.retry_info == 1
    report = overload.report([phase])
    assert report.title == "Overload: 9.00/s come in, 2 s to answer"
    # Late and full are what was asked for; the others are failures.
    assert report.errors == {"INTERNAL": 1, "UNAVAILABLE": 1}
    assert "1 of 4" in report.rows[0]
    assert is_rectangular(report)


def test_a_deadline_that_passes_is_a_failure_where_there_is_none():
    assert record("", 0.0, error="DEADLINE_EXCEEDED").failed
    assert record("", 0.0, error="INTERNAL", deadline=1.0).failed
    assert not record("", 0.0, error="DEADLINE_EXCEEDED", deadline=1.0).failed


def test_a_refusal_brings_nothing():
    assert record("", 0.0, error="RESOURCE_EXHAUSTED").refused
    assert not record("", 0.0, 1.0, error="UNAVAILABLE").refused
    assert not record("", 0.0, error="DEADLINE_EXCEEDED", reason="QUEUE_TIMEOUT").refused
    assert not record("", 0.0, error="INTERNAL").refused


def test_chat_has_a_row_for_each_turn():
    records = [
        record("1", 0.0, 1.0, prompt_tokens=PromptTokens(10, 0)),
        record("2", 0.0, 0.5, prompt_tokens=PromptTokens(30, 15)),
        record("10", 0.0, ended=1.0, error="X"),
        record("1", 0.0, 2.0, prompt_tokens=PromptTokens(10, 0)),
    ]
    report = chat.report([PhaseRecord("2", tuple(records))])
    assert [row[:4] for row in report.rows] == [
        ("1", "2", "20", "0 %"),
        ("2", "1", "30", "50 %"),
        ("10", "1", "0", "-"),
    ]
    assert report.rows[0][4:] == ("1000.0", "2000.0", "2000.0", "2000.0", "-")
    assert report.errors == {"X": 1}
    assert is_rectangular(report)


def test_determinism_pairs_the_rounds_of_a_comparison():
    first, second = answer("a", 1, finished=True), answer("a", 2, finished=True)
    rounds = [
        PhaseRecord(name, (one,))
        for name, one in (("alone", first), ("together", first), ("alone", second))
    ]
    same = determinism.report([*rounds, PhaseRecord("together", (second,))])
    assert (same.failure, same.results[0]["identical"]) == ("", 2)
    assert determinism.report([*rounds, PhaseRecord("together", (first,))]).failure


def test_determinism_compares_texts_where_there_are_no_tokens():
    one, other = (replace(answer("a", finished=True), text=text) for text in ("abc", "abd"))
    found = determinism.determinism([one], [other])
    assert found.differences == (determinism.Difference("a", 2, ord("c"), ord("d")),)


def test_interference_numbers_its_rounds():
    running, long = record("running", 0.0, 1.0, 3.0), record("long", 1.0, 2.0)
    report = interference.report([PhaseRecord("1 streams", (running, long))] * 2)
    assert [row[0] for row in report.rows] == ["1", "2"]
    assert [one["round"] for one in report.results] == [1, 2]
