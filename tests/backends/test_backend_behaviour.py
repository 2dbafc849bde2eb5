"""What every backend does: one suite, in a runner's process, over each of them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress

import pytest
import pytest_asyncio
from backend_cases import CASES, BackendCase, examples_on_path, skip_where_missing
from bench_runner import TOP, UNIT, Bench, prompt_of
from steps import GREEDY, Drawn, drawn

from llm_serving_engine.backends.process.host import ProcessRunner
from llm_serving_engine.backends.runner import RunnerLost
from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.request import Priority, Request, Sampling
from llm_serving_engine.scheduler.step import (
    FOLLOW,
    Close,
    Copy,
    Drop,
    Open,
    Operation,
    Output,
    Restore,
    Run,
    RunResult,
    Save,
    Step,
    StepResult,
)
from llm_serving_engine.server.engine.engine import Engine

pytestmark = pytest.mark.asyncio(loop_scope="module")

DRAWN = Sampling(temperature=1.5, seed=7, top_k=0, top_p=1.0, min_p=0.0)


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=CASES, ids=lambda case: str(case.name)
)
async def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bench]:
    case: BackendCase = request.param
    skip_where_missing(case)
    path = case.write_model(tmp_path_factory.mktemp("model"))
    runner = ProcessRunner(case.backend, str(path), case.config)
    with examples_on_path():
        await runner.start()
        yield Bench(case, runner)
        await runner.close()


async def test_what_is_configured_is_what_there_is(bench: Bench) -> None:
    assert bench.capabilities.slots == bench.case.config.sequences
    assert bench.context == bench.case.config.context_per_sequence
    assert bench.capabilities.chunk % UNIT == 0
    assert bench.capabilities.batch_invariant


async def test_a_result_answers_its_step(bench: Bench) -> None:
    result = await bench.execute(number=99)
    assert (result.number, result.runs, result.failed, result.recalled) == (99, (), (), False)
    result = await bench.execute(bench.opened(0), bench.run(0, (5, 6), draws=False), number=100)
    assert (result.number, result.runs, result.failed) == (100, (RunResult(0, 2),), ())
    assert result.seconds > 0


async def test_greedy_is_the_same_every_time_and_everywhere(bench: Bench) -> None:
    prompt = prompt_of(1, 21)
    first = await bench.alone(0, prompt)
    assert await bench.alone(3, prompt) == first
    assert await bench.alone(0, prompt) == first


async def test_a_seed_gives_the_same_tokens_every_time(bench: Bench) -> None:
    prompt = prompt_of(2, 12)
    first = await bench.alone(0, prompt, DRAWN, count=24)
    assert await bench.alone(2, prompt, DRAWN, count=24) == first


async def test_the_request_says_how_tokens_are_chosen(bench: Bench) -> None:
    if not bench.case.samples:
        pytest.skip("this backend has no sampler")
    prompt = prompt_of(3, 12)
    drawn = await bench.alone(0, prompt, DRAWN, count=24)
    other = Sampling(temperature=1.5, seed=8, top_k=0, top_p=1.0, min_p=0.0)
    assert await bench.alone(0, prompt, other, count=24) != drawn
    biased = Sampling(temperature=0.0, logit_bias={77: 100.0})
    assert [token for token, _ in await bench.alone(0, prompt, biased)] == [77] * 6
    # Greedy, and no token twice.
    penalised = Sampling(temperature=0.0, repetition_penalty=10.0, presence_penalty=2.0)
    varied = await bench.alone(0, prompt, penalised)
    assert len({token for token, _ in varied}) == len(varied)


async def test_others_change_nothing(bench: Bench) -> None:
    count = 8
    prompts = [prompt_of(10 + slot, 11 + 9 * slot) for slot in range(4)]
    samplings = [GREEDY, DRAWN, Sampling(seed=3, temperature=2.0), GREEDY]
    expected = [
        await bench.alone(3 - slot, prompts[slot], samplings[slot], count) for slot in range(4)
    ]
    produced: list[list[Drawn]] = [[] for _ in range(4)]

    async def decode() -> None:
        going = [slot for slot in range(4) if 0 < len(produced[slot]) < count]
        rows = [
            bench.run(slot, (produced[slot][-1][0],), len(prompts[slot]) + len(produced[slot]) - 1)
            for slot in going
        ]
        for slot, found in zip(going, await bench.draw(*rows), strict=True):
            produced[slot].append(found)

    # One prompt after the other, while those before go on.
    for slot in range(4):
        produced[slot].append(await bench.begin(slot, prompts[slot], samplings[slot]))
        await decode()
    while len(produced[3]) < count:
        await decode()
    assert produced == expected


async def test_a_slot_is_used_again(bench: Bench) -> None:
    prompt = prompt_of(20, 30)
    expected = await bench.alone(1, prompt)
    await bench.alone(1, prompt_of(21, 100), DRAWN)
    assert await bench.alone(1, prompt) == expected


async def test_a_sequence_goes_on_in_another_slot(bench: Bench) -> None:
    prompt = prompt_of(22, 3 * UNIT + 5)
    expected = await bench.alone(0, prompt, DRAWN, count=21)
    output = tuple(token for token, _ in expected[:20])
    await bench.begin(3, prompt, DRAWN)
    # As the scheduler computes it again, of another key: the sampler is as it was.
    again = Open(7, DRAWN, top_logprobs=TOP, output=output, prompt_tokens=len(prompt))
    run = bench.run(3, output, len(prompt))._replace(key=7)
    # To the bit: what was decoded is computed again as it was then.
    assert await bench.draw(again, run) == expected[20:]
    await bench.execute(Close(7))


async def test_a_run_drops_what_is_beyond_its_start(bench: Bench) -> None:
    needs(bench.capabilities.rollback is None)
    prompt = prompt_of(23, 2 * UNIT + 9)
    expected = await bench.begin(0, prompt)
    await bench.begin(1, prompt[: 2 * UNIT] + prompt_of(24, 30))
    rest = bench.run(1, prompt[2 * UNIT :], 2 * UNIT)
    assert await bench.draw(bench.opened(1), rest) == [expected]


async def test_a_run_beyond_what_the_slot_holds_is_refused(bench: Bench) -> None:
    if bench.case.strict:
        pytest.skip("it takes a step that cannot be for a bug of the scheduler's, and ends")
    await bench.begin(0, prompt_of(35, 20))
    result = await bench.execute(bench.run(0, (5, 6), 21))
    assert result.runs == (RunResult(0, 0),)


async def test_a_prefix_is_copied(bench: Bench) -> None:
    needs(bench.capabilities.copy)
    prompt = prompt_of(25, 3 * UNIT + 5)
    expected = await bench.alone(3, prompt)
    first = await bench.begin(0, prompt)
    await bench.begin(2, prompt_of(26, 40))
    for shared in (UNIT, 3 * UNIT):
        await bench.execute(Copy(0, 2, shared))
        for start in range(shared, len(prompt) - UNIT, UNIT):
            await bench.execute(
                bench.opened(2), bench.run(2, prompt[start : start + UNIT], start, draws=False)
            )
        rest = bench.run(2, prompt[3 * UNIT :], 3 * UNIT)
        assert await bench.draw(bench.opened(2), rest) == expected[:1]
    # The source goes on as if nothing had been.
    assert await bench.draw(bench.run(0, (first[0],), len(prompt))) == expected[1:2]


async def test_a_cache_is_saved_and_restored(bench: Bench) -> None:
    needs(bench.capabilities.snapshots)
    prompt = prompt_of(27, 50)
    expected = await bench.alone(0, prompt)
    token, _ = await bench.begin(0, prompt)
    await bench.execute(Save(0, 5, 50))
    await bench.begin(0, prompt_of(28, 20))
    for slot in (2, 3):
        again = bench.opened(slot, output=(token,))
        run = bench.run(slot, (token,), 50)
        assert await bench.draw(Restore(slot, 5, 50), again, run) == expected[1:2]
    assert not (await bench.execute(Drop(5))).failed


async def test_log_probabilities(bench: Bench) -> None:
    token, logprobs = await bench.begin(0, prompt_of(29, 9))
    if not bench.capabilities.outputs & Output.LOGPROBS:
        assert logprobs is None
        return
    assert logprobs is not None
    values = [value for _, value in logprobs.top]
    assert len(values) == TOP
    assert values == sorted(values, reverse=True)
    assert logprobs.top[0] == (token, logprobs.chosen)
    assert all(value <= 0 for value in values)
    plain = Run(0, 0, 0, prompt_of(29, 9), output=Output.SAMPLE)
    assert await bench.draw(Open(0, GREEDY), plain) == [(token, None)]


async def test_a_row_follows_the_token_that_was_drawn(bench: Bench) -> None:
    prompt = prompt_of(36, 12)
    expected = await bench.alone(0, prompt, count=3)
    await bench.begin(1, prompt)
    follow = bench.run(1, (FOLLOW,), len(prompt))
    steps = [bench.execute(follow), bench.execute(follow._replace(start=len(prompt) + 1))]
    results = await asyncio.gather(*steps)
    assert [drawn(result.runs[0]) for result in results] == expected[1:]


async def test_a_row_that_would_follow_a_stop_token_is_skipped(bench: Bench) -> None:
    prompt = prompt_of(37, 12)
    token, _ = await bench.begin(0, prompt)
    stops = Open(0, GREEDY, frozenset({token}), TOP)
    await bench.draw(stops, bench.run(0, prompt))
    result = await bench.execute(bench.run(0, (FOLLOW,), len(prompt)))
    assert result.runs == (RunResult(0, 0),)


async def test_a_step_that_is_recalled_in_time_is_not_done(bench: Bench) -> None:
    prompt = prompt_of(38, 12)
    expected = await bench.begin(0, prompt)
    process = bench.runner.process_id
    assert process is not None
    # Held up, so that the recall comes before the step is looked at.
    os.kill(process, signal.SIGSTOP)
    begun = bench.execute(bench.opened(1), bench.run(1, prompt), number=50)
    queued = bench.execute(bench.run(1, (5,), len(prompt)), number=51)
    results = [asyncio.ensure_future(begun), asyncio.ensure_future(queued)]
    await asyncio.sleep(0)
    bench.runner.recall(51)
    os.kill(process, signal.SIGCONT)
    done, recalled = await asyncio.gather(*results)
    assert drawn(done.runs[0]) == expected
    assert recalled == StepResult(51, recalled=True)
    # Nothing of it was done: the slot is as long as it was.
    assert (await bench.execute(bench.run(1, (5,), len(prompt)))).runs[0].done == 1


async def test_a_slot_holds_its_whole_context(bench: Bench) -> None:
    prompt = prompt_of(30, bench.context - 2)
    produced = await bench.alone(0, prompt, count=3)
    assert len(produced) == 3
    assert await bench.alone(1, prompt, count=3) == produced


async def test_a_slot_without_room_fails_alone(bench: Bench) -> None:
    if bench.case.strict:
        pytest.skip("it takes a step that cannot be for a bug of the scheduler's, and ends")
    neighbour = prompt_of(31, 20)
    expected = await bench.alone(1, neighbour)
    await bench.begin(0, prompt_of(32, bench.context))
    token, _ = await bench.begin(1, neighbour)
    result = await bench.execute(
        bench.run(0, (5,), bench.context), bench.run(1, (token,), len(neighbour))
    )
    full, other = result.runs
    assert (full.done, full.error) == (0, "the cache is full")
    assert drawn(other) == expected[1]
    # Its slot is clear, and can be used again.
    assert await bench.alone(0, neighbour) == expected


async def test_another_runner_goes_on_where_one_is_lost(bench: Bench) -> None:
    prompt = prompt_of(33, 15)
    expected = await bench.alone(0, prompt, DRAWN)
    lost = bench.runner.process_id
    assert lost is not None
    os.kill(lost, signal.SIGSTOP)
    in_flight = bench.execute()
    await ended(lost, in_flight)
    await bench.runner.recover()
    assert bench.runner.process_id != lost
    assert await bench.alone(0, prompt, DRAWN) == expected


async def ended(process: int, step: Awaitable[StepResult]) -> None:
    """Begin a step, and kill the process that it is sent to."""
    waiting = asyncio.ensure_future(step)
    await asyncio.sleep(0)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(RunnerLost):
        await waiting


class StepLog:
    """An observer that keeps the cache operations of all steps."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.rows_max = 0

    def transitioned(self, sequence: object) -> None: ...

    def refused(self, request: object, error: object) -> None: ...

    def stepped(self, step: Step, result: StepResult) -> None:
        assert not result.failed
        self.operations += step.operations
        self.rows_max = max(self.rows_max, len(step.runs) if step.rows else 0)


async def test_the_scheduler_asks_for_nothing_that_it_cannot_do(bench: Bench) -> None:
    shared = prompt_of(40, 4 * UNIT)
    requests = [
        Request(
            id=str(number),
            prompt=shared[: UNIT * (number % 5)] + prompt_of(41 + number, 5 + number),
            max_tokens=10,
            sampling=DRAWN if number % 2 else GREEDY,
            priority=Priority.LOW if number < 8 else Priority.HIGH,
        )
        for number in range(16)
    ]
    expected = [
        [token for token, _ in await bench.alone(0, one.prompt, one.sampling, 10)]
        for one in requests
    ]
    log = StepLog()
    # Outputs are compared, and prompts are cut by the time that steps take.
    config = SchedulerConfig(determinism="batch_invariant")
    engine = Engine(Scheduler(bench.capabilities, config), bench.runner, [log])
    running = asyncio.ensure_future(engine.run())

    async def answer(request: Request) -> list[int]:
        return [token.token async for batch in engine.submit(request) for token in batch]

    try:
        assert await asyncio.gather(*map(answer, requests)) == expected
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert log.rows_max == bench.capabilities.slots
    asked = {type(operation) for operation in log.operations}
    able: dict[type[Operation], bool] = {
        Open: True,
        Close: True,
        Copy: bench.capabilities.copy,
        Save: bench.capabilities.snapshots,
        Restore: bench.capabilities.snapshots,
        Drop: bench.capabilities.snapshots,
    }
    assert asked <= {kind for kind, can in able.items() if can}


def needs(capability: bool) -> None:
    """Skip where a backend says that it cannot: the scheduler never asks it then."""
    if not capability:
        pytest.skip("not among its capabilities")
