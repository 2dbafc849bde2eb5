"""A server records which requests come, and the simulator can read it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from running_server import asked, error_of, gated

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition
from llm_serving_engine.server.config import ConfigError
from llm_serving_engine.server.simulator import trace_recorder
from llm_serving_engine.server.simulator.replay import replay
from llm_serving_engine.server.simulator.replay_settings import SMALL, read_settings
from llm_serving_engine.server.simulator.trace import TraceRecord, read_trace
from llm_serving_engine.server.simulator.trace_recorder import Prefixes, TraceRecorder
from llm_serving_engine.v1 import generation_pb2

SECRET = "a text that nobody else shall read, of more than sixty-four bytes, so that it is hashed"


def request(prompt: list[int], name: str = "r", tenant: str = "", salt: str = "") -> Request:
    return Request(name, tuple(prompt), 8, tenant=tenant, cache_salt=salt)


def ended(asked: Request, at: float = 10.0) -> Sequence:
    sequence = Sequence(asked, 1, [Transition(State.WAITING, at)])
    sequence.advance(Event.CANCEL, at + 1)
    return sequence


def contents(folder: Path) -> str:
    return "".join(file.read_text() for file in folder.iterdir())


async def test_a_server_records_its_requests(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    async with gated(sequences=1, trace_file=str(path)) as server:
        server.runner.open()
        high = generation_pb2.PRIORITY_HIGH
        await server.inference.Generate(asked(SECRET, priority=high, max_tokens=3))
        await server.inference.Generate(asked(SECRET + " again", max_tokens=5), timeout=1000)
        await error_of(server.inference.Generate(asked("", max_tokens=5)))
        # Lines are there as soon as requests have ended.
        first, second = read_trace(path)
    assert (first.priority, second.priority) == (Priority.HIGH, Priority.NORMAL)
    assert (first.prompt_tokens, second.prompt_tokens) == (len(SECRET), len(SECRET) + 6)
    assert (first.output_tokens, first.max_tokens) == (3, 3)
    assert (second.output_tokens, second.max_tokens) == (5, 5)
    assert first.deadline is None
    assert second.deadline is not None
    assert 900 < second.deadline < 1100  # gRPC rounds it
    assert 0 <= first.at <= second.at
    for record in (first, second):
        assert record.first_token_seconds is not None
        assert record.seconds is not None
        assert 0 <= record.first_token_seconds <= record.seconds < 1000
    # What the second one shares with the first, up to a whole block; then it has its own.
    assert first.prefix == {"1": len(SECRET) + 3}
    assert second.prefix == {"1": 80, "2": len(SECRET) + 6 + 5}


async def test_what_was_recorded_can_be_replayed(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    async with gated(sequences=1, trace_file=str(path)) as server:
        server.runner.open()
        for _ in range(2):
            await server.inference.Generate(asked(SECRET, max_tokens=3))
    # In one step each, so that the second finds all that the first has in common with it.
    recorded = read_settings(tmp_path / "trace.server.json")
    assert recorded.capabilities == server.runner.capabilities
    assert recorded.config == server.app.config.scheduler
    slow = replace(recorded, config=SchedulerConfig(step_target_seconds=1.0))
    found = replay(read_trace(path), "fair", slow)
    assert [outcome.output_tokens for outcome in found.outcomes] == [3, 3]
    assert found.totals.prefix_tokens == len(SECRET) - 1


async def test_no_text_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    async with gated(sequences=1, trace_file=str(path)) as server:
        server.runner.open()
        await server.inference.Generate(asked(SECRET, request_id="a-name", cache_salt="a-salt"))
    written = contents(tmp_path)
    assert "prompt_tokens" in written
    for secret in (*SECRET.split(), "a-name", "a-salt"):
        assert len(secret) < 5 or secret not in written


async def test_a_file_that_cannot_be_written_is_an_error_at_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trace_file"):
        async with gated(trace_file=str(tmp_path / "no" / "trace.jsonl")):
            pass


def test_a_request_that_was_cancelled_stands_with_what_it_had(tmp_path: Path) -> None:
    recorder = TraceRecorder(tmp_path / "t", 10_000, clock=lambda: 4.0)
    recorder.transitioned(ended(request([1, 2, 3])))
    assert read_trace(tmp_path / "t") == [TraceRecord(6.0, 3, 0, 8, prefix={"1": 3})]
    recorder.close()


def test_a_request_that_goes_on_is_not_written(tmp_path: Path) -> None:
    recorder = TraceRecorder(tmp_path / "t", 10_000)
    recorder.transitioned(Sequence(request([1]), 1, [Transition(State.WAITING, 0.0)]))
    recorder.close()
    assert (tmp_path / "t").read_text() == ""


def test_the_file_stays_below_its_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder = TraceRecorder(tmp_path / "t", 1000)
    with caplog.at_level(logging.WARNING):
        for _ in range(100):
            recorder.transitioned(ended(request([1])))
    recorder.close()
    assert 500 < (tmp_path / "t").stat().st_size <= 1000
    assert [record.getMessage() for record in caplog.records] == [
        "the trace of requests ends here: it has reached trace_bytes_max"
    ]


def test_a_full_disk_ends_the_recording_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class FullDisk:
        def write(self, line: str) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            raise OSError(28, "No space left on device")

    recorder = TraceRecorder(tmp_path / "t", 1000)
    recorder._file.close()
    recorder._file = FullDisk()  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        recorder.transitioned(ended(request([1])))
        recorder.transitioned(ended(request([1])))
        recorder.close(Scheduler(SMALL))
    assert len(caplog.records) == 2


def test_a_prefix_tells_what_texts_have_in_common() -> None:
    prefixes = Prefixes()
    run = list(range(300))
    assert prefixes.find(request(run[:200]), []) == {"1": 200}
    # This one goes on where the first one ended.
    assert prefixes.find(request(run), []) == {"1": 200, "2": 300}
    # What parts within a block is found up to the block.
    parting = [*run[:150], *[7] * 100]
    assert prefixes.find(request(parting), []) == {"1": 144, "3": 250}
    assert prefixes.find(request(run), []) == {"1": 200, "2": 300}
    assert prefixes.find(request(run[:250]), []) == {"1": 200, "2": 248, "4": 250}


def test_a_turn_goes_on_with_the_answer_before_it() -> None:
    prefixes = Prefixes()
    question, answer = list(range(100)), list(range(1000, 1030))
    assert prefixes.find(request(question), answer) == {"1": 130}
    assert prefixes.find(request([*question, *answer, *range(40)]), [5]) == {"1": 130, "2": 171}


def test_other_texts_have_nothing_in_common() -> None:
    prefixes = Prefixes()
    prompt = list(range(64))
    found = [
        prefixes.find(request(prompt), []),
        prefixes.find(request([9, *prompt[1:]]), []),
        prefixes.find(request(prompt, tenant="b"), []),
        prefixes.find(request(prompt, salt="s"), []),
    ]
    assert found == [{"1": 64}, {"2": 64}, {"3": 64}, {"4": 64}]


def test_what_is_remembered_of_texts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_recorder, "BLOCKS_MAX", 8)
    prefixes = Prefixes()
    for first in (1, 2, 3):
        prefixes.find(request([first] * 32), [])
    # The first one is forgotten: what begins like it is new.
    assert prefixes.find(request([3] * 32), []) == {"3": 32}
    assert prefixes.find(request([1] * 32), []) == {"4": 32}
    # Of a text that is longer than that, the beginning is remembered.
    prefixes.find(request(list(range(100))), [])
    assert prefixes.find(request(list(range(64))), []) == {"5": 64}
