"""Plans, and what the driver makes of them, against a target in memory."""

from __future__ import annotations

import asyncio
import time

import pytest

from llm_serving_engine.clients.bench.drive import drive
from llm_serving_engine.clients.bench.plan import Gate, Phase, PlannedRequest
from llm_serving_engine.clients.bench.record import SHORT_ANSWER
from llm_serving_engine.clients.bench.run import run, warm_up
from llm_serving_engine.clients.bench.settings import Settings
from llm_serving_engine.clients.bench.target import TargetError
from llm_serving_engine.clients.bench.words import prompt
from llm_serving_engine.clients.bench.workloads import WORKLOADS, interference, throughput


class FakeTarget:
    """Gives a token at each turn of the event loop, and keeps a log of what happened."""

    def __init__(self):
        self.log = []
        self.running = 0
        self.running_max = 0

    async def stream(self, prompt, max_tokens):
        self.log.append(f"{prompt} begins")
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        try:
            if prompt == "fail":
                raise TargetError("UNAVAILABLE", "no")
            for number in range(max_tokens - (prompt == "short")):
                await asyncio.sleep(0)
                self.log.append(f"{prompt} {number}")
                yield 1
        finally:
            self.running -= 1
            self.log.append(f"{prompt} ends")


@pytest.fixture
def target():
    return FakeTarget()


def phase(*lanes):
    return Phase("p", tuple(tuple(lane) for lane in lanes))


async def test_lanes_run_side_by_side_and_their_requests_in_turn(target):
    lane = [PlannedRequest("a", 2), PlannedRequest("b", 1)]
    ended = []
    record = await drive(phase(lane, lane), target, lambda: ended.append(1))
    assert target.running_max == 2
    assert [len(request.arrivals) for request in record.requests] == [2, 1, 2, 1]
    assert all(request.sent <= request.arrivals[0].time for request in record.requests)
    assert all(request.ended >= request.arrivals[-1].time for request in record.requests)
    assert len(ended) == 4


async def test_a_gate_holds_a_request_back(target):
    held = PlannedRequest("held", 1, after=Gate("x", 3))
    await drive(phase([PlannedRequest("x", 5, "x")], [held]), target)
    assert target.log.index("held begins") > target.log.index("x 2")
    assert target.log.index("held begins") < target.log.index("x ends")


async def test_a_request_that_ends_opens_its_gates(target):
    held = PlannedRequest("held", 1, after=Gate("x", 3))
    record = await drive(phase([PlannedRequest("fail", 5, "x")], [held]), target)
    assert [request.error for request in record.requests] == ["UNAVAILABLE", ""]


async def test_a_gate_that_opens_ends_a_request(target):
    endless = PlannedRequest("endless", 10**9, until=Gate("x", 2))
    record = await drive(phase([endless], [PlannedRequest("x", 2, "x")]), target)
    assert record.requests[0].error == ""
    assert "endless ends" in target.log


async def test_too_few_tokens_are_an_error(target):
    record = await drive(phase([PlannedRequest("short", 3)]), target)
    assert record.requests[0].error == SHORT_ANSWER


async def test_a_time_holds_a_request_back(target):
    start = time.perf_counter()
    record = await drive(phase([PlannedRequest("a", 1, at=0.02)]), target)
    assert record.requests[0].sent - start > 0.019


async def test_the_warm_up_raises_what_goes_wrong():
    class Broken:
        async def stream(self, prompt, max_tokens):
            raise TargetError("UNAVAILABLE", "no")
            yield

    with pytest.raises(TargetError, match="no"):
        await warm_up(Broken(), 2)


@pytest.mark.parametrize("name", WORKLOADS)
async def test_every_workload_runs(target, name):
    settings = Settings(clients=(1, 2), rounds=2, prompt_words=3, long_words=5, max_tokens=4)
    progress = []
    report = await run(
        WORKLOADS[name], settings, target, lambda ended, total: progress.append((ended, total))
    )
    assert len(report.rows) == len(report.results) == 2
    assert report.errors == {}
    assert progress[-1] == (len(progress), len(progress))


def test_throughput_takes_turns():
    plan = throughput.plan(Settings(clients=(1, 3), rounds=2, max_tokens=5))
    assert [(phase.name, phase.requests) for phase in plan] == [
        ("1", 1),
        ("3", 3),
        ("1", 1),
        ("3", 3),
    ]
    requests = [request for phase in plan for lane in phase.lanes for request in lane]
    assert {request.max_tokens for request in requests} == {5}
    assert len({request.prompt.split()[0] for request in requests}) == len(requests)


def test_interference_sends_one_long_prompt_among_streams():
    (only,) = interference.plan(Settings(rounds=1, streams=2, long_words=50, prompt_words=8))
    *running, long = (lane[0] for lane in only.lanes)
    assert [len(request.prompt.split()) for request in running] == [8, 8]
    assert len(long.prompt.split()) == 50
    assert long.after == Gate("running", 16)
    assert {request.until for request in running} == {Gate("long", 4)}


def test_prompts_are_the_same_in_every_run_and_differ_early():
    assert prompt(3, 10) == prompt(3, 10)
    assert prompt(3, 10) != prompt(3, 10, seed=2)
    heads = {tuple(prompt(number, 5).split()[:2]) for number in range(2000)}
    assert len(heads) == 2000
    assert [len(prompt(0, words).split()) for words in (1, 2, 64)] == [1, 2, 64]
