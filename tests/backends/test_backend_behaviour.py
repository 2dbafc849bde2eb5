"""What every backend does: one suite, in a runner's process, over each of them."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from backend_cases import CASES, BackendCase, examples_on_path, skip_where_missing

from llm_serving_engine.backends.process.host import ProcessRunner
from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.engine import Engine
from llm_serving_engine.scheduler.request import Priority, Request, Sampling
from llm_serving_engine.scheduler.runner import RunnerLost
from llm_serving_engine.scheduler.step import (
    CacheOperation,
    Capabilities,
    ClearSlot,
    CopyPrefix,
    DecodeRow,
    DropSaved,
    OpenSequence,
    PrefillChunk,
    RestoreSlot,
    SampledToken,
    SaveSlot,
    Step,
    StepResult,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

GREEDY = Sampling(temperature=0.0)
DRAWN = Sampling(temperature=1.5, seed=7, top_k=0, top_p=1.0, min_p=0.0)
UNIT = 16
TOP = 3

Tokens = tuple[int, ...]


class Bench:
    """A runner, and the steps that tests make of it."""

    def __init__(self, case: BackendCase, runner: ProcessRunner) -> None:
        self.case = case
        self.runner = runner

    @property
    def capabilities(self) -> Capabilities:
        return self.runner.capabilities

    @property
    def context(self) -> int:
        return self.capabilities.context_per_sequence

    async def execute(self, *parts: Any, number: int = 1) -> StepResult:
        """One step of whatever parts, each where it belongs."""
        operations = (ClearSlot, CopyPrefix, SaveSlot, RestoreSlot, DropSaved)
        return await self.runner.begin(
            Step(
                number,
                tuple(part for part in parts if isinstance(part, operations)),
                tuple(part for part in parts if isinstance(part, OpenSequence)),
                tuple(part for part in parts if isinstance(part, PrefillChunk)),
                tuple(part for part in parts if isinstance(part, DecodeRow)),
            )
        )

    async def begin(self, slot: int, prompt: Tokens, sampling: Sampling = GREEDY) -> SampledToken:
        """Put a prompt into a slot, alone; its first token."""
        result = await self.execute(
            ClearSlot(slot), self.opened(slot, sampling), PrefillChunk(slot, 0, prompt, True)
        )
        assert not result.failures
        return result.tokens[0]

    async def alone(
        self, slot: int, prompt: Tokens, sampling: Sampling = GREEDY, count: int = 6
    ) -> list[SampledToken]:
        """The first tokens of a sequence that runs alone, as if in slot 0."""
        produced = [await self.begin(slot, prompt, sampling)]
        while len(produced) < count:
            row = DecodeRow(slot, len(prompt) + len(produced) - 1, produced[-1].token)
            produced += (await self.execute(row)).tokens
        return [in_slot_0(sampled) for sampled in produced]

    def opened(self, slot: int, sampling: Sampling = GREEDY, output: Tokens = ()) -> OpenSequence:
        """As the scheduler opens a sequence that asks for log-probabilities."""
        top = TOP if self.capabilities.logprobs else None
        return OpenSequence(slot, sampling, top, output=output)


def in_slot_0(sampled: SampledToken) -> SampledToken:
    return sampled._replace(slot=0)


def prompt_of(seed: int, length: int) -> Tokens:
    return tuple(int(token) for token in np.random.default_rng(seed).integers(3, 250, length))


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
    assert bench.capabilities.sequences_max == bench.case.config.sequences
    assert bench.context == bench.case.config.context_per_sequence
    assert UNIT % bench.capabilities.prefill_unit == 0
    assert bench.capabilities.batch_invariant


async def test_a_result_answers_its_step(bench: Bench) -> None:
    result = await bench.execute(ClearSlot(0), number=99)
    assert result == StepResult(99, duration=result.duration, threads=result.threads)
    result = await bench.execute(
        ClearSlot(0), bench.opened(0), PrefillChunk(0, 0, (5, 6), False), number=100
    )
    assert (result.number, result.tokens, result.failures) == (100, (), ())
    assert result.duration > 0


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
    assert [sampled.token for sampled in await bench.alone(0, prompt, biased)] == [77] * 6
    # Greedy, and no token twice.
    penalised = Sampling(temperature=0.0, repetition_penalty=10.0, presence_penalty=2.0)
    varied = await bench.alone(0, prompt, penalised)
    assert len({sampled.token for sampled in varied}) == len(varied)


@pytest.mark.parametrize("cuts", [(1,), (2, 5), (1, 2, 3, 4, 5)])
async def test_a_prompt_in_chunks_is_the_prompt_whole(bench: Bench, cuts: Tokens) -> None:
    prompt = prompt_of(4, 5 * UNIT + 7)
    whole = await bench.alone(0, prompt, count=3)
    await bench.execute(ClearSlot(1), bench.opened(1))
    for start, stop in itertools.pairwise((0, *(cut * UNIT for cut in cuts), len(prompt))):
        last = stop == len(prompt)
        result = await bench.execute(PrefillChunk(1, start, prompt[start:stop], last))
        assert len(result.tokens) == last
    row = DecodeRow(1, len(prompt), whole[0].token)
    after = (*result.tokens, *(await bench.execute(row)).tokens)
    assert [in_slot_0(sampled) for sampled in after] == whole[:2]


async def test_company_changes_nothing(bench: Bench) -> None:
    count = 8
    prompts = [prompt_of(10 + slot, 11 + 9 * slot) for slot in range(4)]
    samplings = [GREEDY, DRAWN, Sampling(seed=3, temperature=2.0), GREEDY]
    expected = [
        await bench.alone(3 - slot, prompts[slot], samplings[slot], count) for slot in range(4)
    ]
    produced: list[list[SampledToken]] = [[] for _ in range(4)]

    def rows() -> list[DecodeRow]:
        going = [slot for slot in range(4) if 0 < len(produced[slot]) < count]
        return [
            DecodeRow(slot, len(prompts[slot]) + len(produced[slot]) - 1, produced[slot][-1].token)
            for slot in going
        ]

    def keep(result: StepResult) -> None:
        assert not result.failures
        for sampled in result.tokens:
            produced[sampled.slot].append(in_slot_0(sampled))

    # One prompt after the other, while those before go on.
    for slot in range(4):
        chunk = PrefillChunk(slot, 0, prompts[slot], True)
        opened = bench.opened(slot, samplings[slot])
        keep(await bench.execute(ClearSlot(slot), opened, chunk, *rows()))
    while len(produced[3]) < count:
        keep(await bench.execute(*rows()))
    assert produced == expected


async def test_a_slot_is_used_again(bench: Bench) -> None:
    prompt = prompt_of(20, 30)
    expected = await bench.alone(1, prompt)
    await bench.alone(1, prompt_of(21, 100), DRAWN)
    assert await bench.alone(1, prompt) == expected


async def test_a_sequence_goes_on_in_another_slot(bench: Bench) -> None:
    prompt = prompt_of(22, 3 * UNIT + 5)
    expected = await bench.alone(0, prompt, DRAWN, count=21)
    output = tuple(sampled.token for sampled in expected[:20])
    chunk = PrefillChunk(3, 0, prompt + output, True, replayed=len(output))
    result = await bench.execute(ClearSlot(3), bench.opened(3, DRAWN, output), chunk)
    # To the bit: what was decoded is computed again as it was then.
    assert [in_slot_0(sampled) for sampled in result.tokens] == expected[20:]


async def test_a_slot_is_cleared_in_part(bench: Bench) -> None:
    needs(bench.capabilities.partial_clear)
    prompt = prompt_of(23, 2 * UNIT + 9)
    expected = in_slot_0(await bench.begin(0, prompt))
    await bench.begin(1, prompt[: 2 * UNIT] + prompt_of(24, 30))
    rest = PrefillChunk(1, 2 * UNIT, prompt[2 * UNIT :], True)
    result = await bench.execute(ClearSlot(1, 2 * UNIT), bench.opened(1), rest)
    assert [in_slot_0(sampled) for sampled in result.tokens] == [expected]


async def test_a_prefix_is_copied(bench: Bench) -> None:
    needs(bench.capabilities.prefix_copy)
    prompt = prompt_of(25, 3 * UNIT + 5)
    expected = await bench.alone(3, prompt)
    first = await bench.begin(0, prompt)
    await bench.begin(2, prompt_of(26, 40))
    for shared in (UNIT, 3 * UNIT):
        rest = PrefillChunk(2, shared, prompt[shared:], True)
        result = await bench.execute(CopyPrefix(0, 2, shared), bench.opened(2), rest)
        assert [in_slot_0(sampled) for sampled in result.tokens] == expected[:1]
    # The source goes on as if nothing had been.
    result = await bench.execute(DecodeRow(0, len(prompt), first.token))
    assert list(result.tokens) == expected[1:2]


async def test_a_cache_is_saved_and_restored(bench: Bench) -> None:
    needs(bench.capabilities.save_restore)
    prompt = prompt_of(27, 50)
    expected = await bench.alone(0, prompt)
    first = await bench.begin(0, prompt)
    await bench.execute(SaveSlot(0, key=5), ClearSlot(0))
    await bench.begin(0, prompt_of(28, 20))
    again = bench.opened(2, output=(first.token,))
    result = await bench.execute(RestoreSlot(2, key=5), again, DecodeRow(2, 50, first.token))
    assert [in_slot_0(sampled) for sampled in result.tokens] == expected[1:2]
    await bench.execute(SaveSlot(2, key=6))
    assert not (await bench.execute(DropSaved(6))).failures


async def test_log_probabilities(bench: Bench) -> None:
    sampled = await bench.begin(0, prompt_of(29, 9))
    if not bench.capabilities.logprobs:
        assert sampled.logprobs is None
        return
    assert sampled.logprobs is not None
    values = [value for _, value in sampled.logprobs.top]
    assert len(values) == TOP
    assert values == sorted(values, reverse=True)
    assert sampled.logprobs.top[0] == (sampled.token, sampled.logprobs.chosen)
    assert all(value <= 0 for value in values)
    await bench.execute(ClearSlot(0), OpenSequence(0, GREEDY))
    (plain,) = (await bench.execute(PrefillChunk(0, 0, prompt_of(29, 9), True))).tokens
    assert plain == SampledToken(0, sampled.token, None)


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
    first = await bench.begin(1, neighbour)
    too_long = PrefillChunk(0, 0, prompt_of(32, bench.context + 1), True)
    row = DecodeRow(1, len(neighbour), first.token)
    result = await bench.execute(ClearSlot(0), bench.opened(0), too_long, row)
    assert [(failure.slot, failure.reason) for failure in result.failures] == [
        (0, "there is no room in the cache")
    ]
    assert [in_slot_0(sampled) for sampled in result.tokens] == expected[1:2]
    # Its slot is clear, and can be used again.
    assert await bench.alone(0, neighbour) == expected


async def test_another_runner_goes_on_where_one_is_lost(bench: Bench) -> None:
    prompt = prompt_of(33, 15)
    expected = await bench.alone(0, prompt, DRAWN)
    lost = bench.runner.process_id
    assert lost is not None
    os.kill(lost, signal.SIGSTOP)
    under_way = bench.execute(ClearSlot(0))
    await ended(lost, under_way)
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
        self.operations: list[CacheOperation] = []
        self.rows_max = 0

    def transitioned(self, sequence: object) -> None: ...

    def refused(self, request: object, error: object) -> None: ...

    def stepped(self, step: Step, result: StepResult) -> None:
        assert not result.failures
        self.operations += step.operations
        self.rows_max = max(self.rows_max, len(step.decodes))


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
        [sampled.token for sampled in await bench.alone(0, one.prompt, one.sampling, 10)]
        for one in requests
    ]
    log = StepLog()
    engine = Engine(Scheduler(bench.capabilities, SchedulerConfig()), bench.runner, [log])
    running = asyncio.ensure_future(engine.run())

    async def answer(request: Request) -> list[int]:
        return [token.token async for batch in engine.submit(request) for token in batch]

    try:
        assert await asyncio.gather(*map(answer, requests)) == expected
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert log.rows_max == bench.capabilities.sequences_max
    asked = {type(operation) for operation in log.operations}
    able: dict[type[CacheOperation], bool] = {
        ClearSlot: True,
        CopyPrefix: bench.capabilities.prefix_copy,
        SaveSlot: bench.capabilities.save_restore,
        RestoreSlot: bench.capabilities.save_restore,
        DropSaved: bench.capabilities.save_restore,
    }
    assert asked <= {kind for kind, can in able.items() if can}


def needs(capability: bool) -> None:
    """Skip where a backend says that it cannot: the scheduler never asks it then."""
    if not capability:
        pytest.skip("not among its capabilities")
