from __future__ import annotations

import pytest

from llm_serving_engine.clients.bench.measures import (
    Gap,
    Spread,
    errors,
    gaps,
    load,
    percentile,
    spread,
    time_to_first_token,
)
from llm_serving_engine.clients.bench.record import Arrival, PhaseRecord, Record
from llm_serving_engine.clients.bench.workloads import interference, steady


def record(sent, *times, ended=None, error="", label="", tokens=1):
    arrivals = tuple(Arrival(time, tokens) for time in times)
    return Record(label, sent, ended or (times[-1] if times else sent), arrivals, error)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 50, None),
        ([7.0], 99, 7.0),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([4.0, 1.0, 3.0, 2.0], 50, 2.0),
        ([4.0, 1.0, 3.0, 2.0], 51, 3.0),
        (list(map(float, range(1, 101))), 99, 99.0),
        (list(map(float, range(1, 101))), 95, 95.0),
        ([1.0, 2.0], 0, 1.0),
        ([1.0, 2.0], 100, 2.0),
    ],
)
def test_percentile_is_by_nearest_rank(values, percent, expected):
    assert percentile(values, percent) == expected


def test_spread():
    assert spread([3.0, 1.0, 2.0]) == Spread(p50=2.0, p95=3.0, p99=3.0, max=3.0)
    assert spread([]) == Spread(None, None, None, None)


def test_gaps_lie_between_arrivals():
    assert gaps(record(0, 1.0, 1.5, 4.0)) == [Gap(1.0, 1.5), Gap(1.5, 4.0)]
    assert gaps(record(0, 1.0)) == gaps(record(0)) == []


def test_time_to_first_token():
    assert time_to_first_token(record(2.0, 2.5, 9.0)) == 0.5
    assert time_to_first_token(record(2.0)) is None


def test_errors_are_counted_by_code():
    records = [record(0, error="B"), record(0), record(0, error="A"), record(0, error="B")]
    assert list(errors(records).items()) == [("A", 1), ("B", 2)]


def test_load_adds_repetitions_up():
    repetitions = [
        PhaseRecord("2", (record(10.0, 11.0, 12.0), record(10.5, 11.0, 14.0)), cpu_seconds=0.25),
        PhaseRecord("2", (record(20.0, 20.5, tokens=3), record(20.0, error="X", ended=21.0)), 0.5),
    ]
    found = load(repetitions)
    assert (found.requests, found.output_tokens, found.errors) == (4, 7, {"X": 1})
    assert (found.seconds, found.tokens_per_second) == (5.0, 1.4)
    assert found.time_to_first_token == Spread(p50=0.5, p95=1.0, p99=1.0, max=1.0)
    assert found.gap == Spread(p50=1.0, p95=3.0, p99=3.0, max=3.0)
    assert found.cpu_seconds == 0.75


def test_a_load_without_output():
    found = load([PhaseRecord("1", (record(1.0, error="X"),))])
    assert (found.tokens_per_second, found.gap.max) == (0.0, None)


def test_steady_reports_a_row_for_each_number_of_clients():
    phases = [
        PhaseRecord("1", (record(0.0, 1.0, 2.0),), 0.5),
        PhaseRecord("2", (record(3.0, 3.5, 4.0), record(3.0, 3.5, 4.0)), 0.25),
        PhaseRecord("1", (record(5.0, 6.0, 7.0),), 0.5),
    ]
    report = steady.report(phases)
    assert [len(row) for row in report.rows] == [len(report.columns)] * 2
    assert report.rows[0][:6] == ("1", "1.0", "1.00", "0.0", "1000.0", "1000.0")
    assert report.rows[1][:5] == ("2", "4.0", "4.00", "0.0", "500.0")
    assert [row[-1] for row in report.rows] == ["1.00", "0.25"]
    assert [result["clients"] for result in report.results] == [1, 2]
    assert report.errors == {}


def test_interference_tells_before_from_while():
    running = record(0.0, 1.0, 1.25, 2.0, 2.5, 4.5, 5.0, label="running", ended=5.0)
    other = record(0.0, 1.125, 1.5, 2.25, 4.75, 9.0, label="running", ended=9.0)
    long = record(2.125, 4.0, 4.25, label="long")
    found = interference.interference(PhaseRecord("1", (running, other, long)))
    # All run from 1.125 on; the long prompt comes in from 2.125 to 4.0.
    assert found.before == Spread(p50=0.375, p95=0.75, p99=0.75, max=0.75)
    assert found.during == Spread(p50=0.75, p95=2.5, p99=2.5, max=2.5)
    assert found.time_to_first_token == 1.875
    assert (found.ended_early, found.errors) == (0, {})


def test_interference_with_streams_that_end_early_or_a_long_prompt_that_fails():
    short = record(0.0, 1.0, 2.0, label="running")
    long = record(2.0, label="long", error="X", ended=3.0)
    phase = PhaseRecord("1", (short, long))
    found = interference.interference(phase)
    assert (found.ended_early, found.time_to_first_token) == (1, None)
    assert found.during == Spread(None, None, None, None)
    report = interference.report([phase])
    assert report.errors == {"X": 1}
    assert report.notes[-1].startswith("1 running streams ended before")
    assert [len(row) for row in report.rows] == [len(report.columns)]
