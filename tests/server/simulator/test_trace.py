"""Traces: read, written, and turned into prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_serving_engine.scheduler.request import Priority
from llm_serving_engine.server.simulator.trace import (
    FIELDS,
    TraceError,
    TraceRecord,
    parse_line,
    read_trace,
    synthetic_tokens,
    write_trace,
)
from llm_serving_engine.server.simulator.trace_example import example_trace

LEAST = {"at": 0, "prompt_tokens": 1, "output_tokens": 0, "max_tokens": 1}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    records = example_trace()
    write_trace(tmp_path / "trace.jsonl", records)
    assert read_trace(tmp_path / "trace.jsonl") == records


def test_records_come_in_the_order_of_arrival(tmp_path: Path) -> None:
    late, early = TraceRecord(2.0, 1, 1, 1), TraceRecord(1.0, 1, 1, 1)
    write_trace(tmp_path / "trace.jsonl", [late, early])
    assert read_trace(tmp_path / "trace.jsonl") == [early, late]


def test_a_line_has_every_field() -> None:
    record = TraceRecord(1.5, 200, 40, 256, "a", Priority.HIGH, {"g": 128}, 10.0, 0.3, 1.9)
    values = json.loads(record.line())
    assert set(values) == set(FIELDS)
    assert values["priority"] == "high"
    assert parse_line(record.line()) == record


def test_most_fields_can_be_left_out() -> None:
    assert parse_line(json.dumps(LEAST)) == TraceRecord(0.0, 1, 0, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"at": -1}, "at is less than 0"),
        ({"at": float("nan")}, "at is not finite"),
        ({"at": "soon"}, "at is not a number"),
        ({"at": 10**400}, "at is too large"),
        ({"prompt_tokens": 0}, "prompt_tokens is less than 1"),
        ({"prompt_tokens": True}, "prompt_tokens is not an integer"),
        ({"prompt_tokens": 1.0}, "prompt_tokens is not an integer"),
        ({"max_tokens": 0}, "max_tokens is less than 1"),
        ({"output_tokens": 2}, "output_tokens is not 0 to max_tokens"),
        ({"priority": "urgent"}, "priority is none of low, normal, high, critical"),
        ({"priority": None}, "priority is none of"),
        ({"tenant": 1}, "tenant is not a string"),
        ({"prefix": ["g"]}, "prefix is not an object of integers"),
        ({"prefix": {"g": 1.0}}, "prefix is not an object of integers"),
        ({"prefix": {"g": 2}}, "the ends of prefix are not ascending, from 1 to 1"),
        ({"prefix": {"g": 0}}, "the ends of prefix are not ascending, from 1 to 1"),
        ({"prefix": {"g": 1, "h": 1}}, "the ends of prefix are not ascending, from 1 to 1"),
        ({"deadline": 0}, "deadline is 0"),
        ({"deadline": -1}, "deadline is less than 0"),
        ({"seconds": -1}, "seconds is less than 0"),
        ({"first_token_seconds": float("inf")}, "first_token_seconds is not finite"),
        ({"prompt": "secret"}, "unknown field 'prompt'"),
    ],
)
def test_what_makes_no_sense_is_said(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_line(json.dumps(LEAST | change))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not an object"),
        ("{}", "at is missing"),
        ("[" * 10**5, "not JSON"),
    ],
)
def test_lines_that_are_no_records(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_line(line)


def test_an_error_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(LEAST) + "\n\nnonsense\n")
    with pytest.raises(TraceError, match=r"trace\.jsonl, line 3: not JSON"):
        read_trace(path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "holds no requests"), (b"\xff\n", "line 1: not UTF-8")]
)
def test_files_that_are_no_traces(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=message):
        read_trace(path)


def prompt(record: TraceRecord, number: int, tokens_max: int = 10_000) -> tuple[int, ...]:
    return synthetic_tokens(record, number, tokens_max)[0]


def test_texts_begin_alike_where_they_have_runs_in_common() -> None:
    a = prompt(TraceRecord(0, 700, 1, 1, prefix={"g": 600}), 1)
    b = prompt(TraceRecord(0, 800, 1, 1, prefix={"g": 300, "h": 700}), 2)
    c = prompt(TraceRecord(0, 700, 1, 1, prefix={"g": 300, "h": 650}), 3)
    assert (len(a), len(b), len(c)) == (700, 800, 700)
    assert a[:300] == b[:300]
    assert a[300] != b[300]
    assert b[:650] == c[:650]
    assert b[650] != c[650]


def test_texts_without_runs_begin_like_no_other() -> None:
    alone, other = TraceRecord(0, 10, 1, 1), TraceRecord(0, 10, 1, 1, prefix={"g": 10})
    assert len({prompt(alone, 1)[0], prompt(alone, 2)[0], prompt(other, 3)[0]}) == 3


def test_an_output_begins_as_what_goes_on_with_it() -> None:
    first = TraceRecord(0, 100, 30, 30, prefix={"1": 120})
    start, continuation = synthetic_tokens(first, 1, 10_000)
    assert len(continuation) == 20
    assert prompt(TraceRecord(9, 150, 1, 1, prefix={"1": 120}), 2)[:120] == start + continuation


def test_a_prompt_is_the_same_every_time_and_no_longer_than_told() -> None:
    record = TraceRecord(0, 10**12, 1, 1, prefix={"g": 10**12})
    assert len(prompt(record, 1, 50)) == 50
    assert prompt(record, 1, 50) == prompt(record, 1, 50)


def test_the_example_has_what_there_is_to_try() -> None:
    records = example_trace()
    assert records == example_trace()
    assert records != example_trace(seed=2)
    tenants = [record.tenant for record in records]
    assert tenants.count("greedy") == 10 * tenants.count("modest")
    assert {record.priority for record in records} == set(Priority)
    assert any(record.deadline for record in records)
    assert any(record.prefix for record in records)
