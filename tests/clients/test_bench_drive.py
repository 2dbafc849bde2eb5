"""What the driver makes of plans, against a target in memory."""

from __future__ import annotations

import asyncio
import time

import pytest
from running_server import gated
from shifted_loop import run_shifted

from llm_serving_engine.clients.bench.drive import ERROR_PAUSE_SECONDS, drive
from llm_serving_engine.clients.bench.grpc_target import GrpcTarget
from llm_serving_engine.clients.bench.plan import Gate, Phase, PlannedRequest
from llm_serving_engine.clients.bench.record import SHORT_ANSWER, PhaseRecord, PromptTokens
from llm_serving_engine.clients.bench.run import run, warm_up
from llm_serving_engine.clients.bench.settings import Settings
from llm_serving_engine.clients.bench.target import Ended, Output, ServerFacts, TargetError
from llm_serving_engine.clients.bench.workloads import WORKLOADS, chat

FULL = {"queue_requests_max": 1, "tenant_queue_share": 1.0}


class FakeTarget:
    """Gives a token at each turn of the event loop, and keeps a log of what happened."""

    salted = True

    def __init__(self):
        self.log = []
        self.running = 0
        self.running_max = 0

    async def describe(self):
        return ServerFacts("here", "fake", "none", slots=2)

    async def stream(self, request):
        prompt, max_tokens = request.prompt, request.max_tokens
        self.log.append(f"{prompt} begins")
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        try:
            if prompt == "fail":
                raise TargetError("UNAVAILABLE", "no")
            for number in range(max_tokens - (prompt == "short")):
                await asyncio.sleep(0)
                self.log.append(f"{prompt} {number}")
                yield Output(1, f"{number} ", (number,))
            yield Ended(PromptTokens(3, 1))
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


async def test_a_record_says_what_came(target):
    leaving = PlannedRequest("left", 9, "left", until=Gate("left", 2))
    lanes = [PlannedRequest("whole", 3)], [leaving], [PlannedRequest("fail", 1)]
    whole, left, failed = (await drive(phase(*lanes), target)).requests
    assert (whole.finished, whole.token_ids, whole.prompt_tokens) == (
        True,
        (0, 1, 2),
        PromptTokens(3, 1),
    )
    assert (left.finished, left.token_ids, left.prompt_tokens) == (False, (0, 1), None)
    assert (failed.finished, failed.token_ids, failed.error) == (False, (), "UNAVAILABLE")


def test_a_phase_ends_when_its_time_is_over(target):
    ended: list[int] = []
    records: list[PhaseRecord] = []
    lanes = (PlannedRequest("a", 1), PlannedRequest("endless", 10**9), PlannedRequest("b", 1))

    async def scenario(loop):
        async def move_the_clock():
            while "endless 2" not in target.log:  # noqa: ASYNC110
                await asyncio.sleep(0)
            loop.ahead = 3600.0

        moving = asyncio.create_task(move_the_clock())
        phase = Phase("p", (lanes,), seconds=3600.0)
        records.append(await drive(phase, target, lambda: ended.append(1)))
        await moving

    run_shifted(scenario)
    (record,) = records
    assert [request.finished for request in record.requests] == [True, False]
    assert record.requests[1].error == ""
    assert record.requests[1].ended >= record.requests[1].arrivals[-1].time
    assert (target.log[-1], target.running, len(ended)) == ("endless ends", 0, 3)


async def test_a_bug_ends_all_lanes(target):
    class Buggy(FakeTarget):
        async def stream(self, request):
            if request.prompt == "bug":
                raise ZeroDivisionError
            async for output in super().stream(request):
                yield output

    target = Buggy()
    with pytest.raises(ZeroDivisionError):
        await drive(phase([PlannedRequest("a", 10**9)], [PlannedRequest("bug", 1)]), target)
    assert target.running == 0


async def test_a_pause_and_an_error_hold_the_next_request_back(target):
    lane = [PlannedRequest("a", 1), PlannedRequest("fail", 1, pause=0.02), PlannedRequest("b", 1)]
    first, failed, last = (await drive(phase(lane), target)).requests
    assert failed.sent - first.ended > 0.019
    assert last.sent - failed.ended > ERROR_PAUSE_SECONDS - 0.001


async def test_a_time_holds_a_request_back(target):
    start = time.perf_counter()
    record = await drive(phase([PlannedRequest("a", 1, at=0.02)]), target)
    assert record.requests[0].sent - start > 0.019


async def test_the_warm_up_raises_what_goes_wrong():
    class Broken(FakeTarget):
        async def stream(self, request):
            raise TargetError("UNAVAILABLE", "no")
            yield

    with pytest.raises(TargetError, match="no"):
        await warm_up(Broken(), 2)


async def test_a_request_that_continues_has_the_answer_in_its_prompt(target):
    first, failing = PlannedRequest("a", 2), PlannedRequest(" b", 1, continues=True)
    await drive(phase([first, failing, PlannedRequest(" c", 1, continues=True)]), target)
    begun = [entry for entry in target.log if entry.endswith("begins")]
    assert begun == ["a begins", "a0 1  b begins", "a0 1  b0  c begins"]


async def test_the_warm_up_is_no_wider_than_the_server(target):
    settings = Settings(clients=(9,), rounds=1, max_tokens=2, slots=3)
    await run(WORKLOADS["steady"], settings, [target], lambda *told: None)
    assert len([entry for entry in target.log if entry.endswith(" 7")]) == 3


async def test_a_real_server_that_is_full_refuses_and_says_when_to_come_again():
    async with (
        gated(sequences=1, scheduler=FULL) as server,
        GrpcTarget(server.address, cache_salt="x") as target,
    ):
        assert (await target.describe()).slots == 1
        held = await server.fill()
        refused = PlannedRequest("c", 3, deadline=30)
        (record,) = (await drive(phase([refused]), target)).requests
        assert (record.error, record.refused, record.failed) == ("RESOURCE_EXHAUSTED", True, False)
        assert record.retry_after is not None
        server.runner.open()
        await asyncio.gather(*held)
        (record,) = (await drive(phase([refused]), target)).requests
        assert (record.finished, record.in_time, record.tokens) == (True, True, 3)
        assert record.text


@pytest.mark.parametrize("name", WORKLOADS)
async def test_every_workload_runs(target, name, monkeypatch):
    monkeypatch.setattr(chat, "THINK_SECONDS", (0.0, 0.01))
    settings = Settings(
        rounds=2,
        prompt_words=3,
        long_words=5,
        max_tokens=4,
        prefix_words=3,
        idle_requests=2,
        seconds=0.1,
        requests=5,
        ratio=2,
        slots=2,
    )
    progress = []
    measured = await run(
        WORKLOADS[name],
        settings,
        [target],
        lambda ended, total, what: progress.append((ended, total)),
    )
    (phases,) = measured.records
    report = WORKLOADS[name].report(phases)
    assert report.results
    assert {len(row) for row in report.rows} == {len(report.columns)}
    assert (report.errors, report.failure) == ({}, "")
    assert progress[-1][0] == progress[-1][1] == max(ended for ended, _ in progress)
