"""The same answer, idle or full: whatever is preempted, moved, or taken from the cache."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import grpc
import pytest
from running_server import RunningServer, asked, read_all, serving

from llm_serving_engine.backends.backend import LoadError
from llm_serving_engine.scheduler.lifecycle import State

INVARIANT = {
    "determinism": "batch_invariant",
}
PREFIXES = ("Once upon a time there was a king. " * 5, "def main(argument):\n    " * 12, "")


def random_request(number: int) -> dict[str, Any]:
    """A prompt that may begin like others, and an answer that may be left early."""
    dice = random.Random(number)
    return {
        "prompt": dice.choice(PREFIXES) + f"Number {dice.random()} " * dice.randint(1, 4),
        "max_tokens": dice.choice([3, 12, 30]),
        "sampling": {"temperature": dice.choice([0.0, 0.9]), "seed": number},
        "priority": dice.randint(1, 4),
        "leave_after": dice.choice([None, None, 2]),
    }


async def tokens_of(server: RunningServer, request: dict[str, Any], salt: str) -> list[int]:
    fields = {name: value for name, value in request.items() if name != "leave_after"}
    call = server.inference.Stream(asked(**fields, cache_salt=salt))
    tokens: list[int] = []
    async for event in call:
        tokens += event.delta.token_ids
        if request["leave_after"] is not None and len(tokens) >= request["leave_after"]:
            call.cancel()
            break
    return tokens


async def all_at_once(server: RunningServer, requests: list[dict[str, Any]]) -> list[list[int]]:
    """Their tokens; the low classes come first, and have all slots when the high ones come."""
    answers: list[asyncio.Future[list[int]]] = [
        asyncio.get_running_loop().create_future() for _ in requests
    ]

    async def ask(number: int) -> None:
        answers[number].set_result(await tokens_of(server, requests[number], salt=""))

    before = len(server.recorder.states)
    low = [number for number, request in enumerate(requests) if request["priority"] < 3]
    high = [number for number, request in enumerate(requests) if request["priority"] >= 3]
    with server.runner_held():
        first = [asyncio.create_task(ask(number)) for number in low]
        await server.recorder.taken(before + len(low))
    await server.recorder.until(lambda: server.slots_in_use == 3)
    with server.runner_held():
        others = [asyncio.create_task(ask(number)) for number in high]
        await server.recorder.taken(before + len(requests))
    await asyncio.gather(*first, *others)
    return [answer.result() for answer in answers]


async def test_sixty_requests_alone_and_all_at_once(tiny_quantized_model_path: Path) -> None:
    # Few slots, so that classes take them from each other; long enough that rows
    # which are computed alone need company.
    runner = {"sequences": 3, "context_per_sequence": 768, "threads": 2, "prefill_chunk": 64}
    requests = [random_request(number) for number in range(60)]
    async with serving(
        tiny_quantized_model_path, model={"runner": runner}, scheduler=INVARIANT
    ) as server:
        alone = [
            await tokens_of(server, request, salt=str(number))
            for number, request in enumerate(requests)
        ]
        together = await all_at_once(server, requests)
        totals = server.model.engine.scheduler.totals
        assert totals.prefix_hits > 5
        assert totals.preemptions > 0
    for request, one, other in zip(requests, alone, together, strict=True):
        # How many tokens come before a caller has left is chance.
        length = min(len(one), len(other)) if request["leave_after"] else len(one)
        assert length
        assert one[:length] == other[:length]


async def test_batch_invariance_that_the_model_lacks_is_refused(
    tiny_model_path: Path,
) -> None:
    # F32: the kernels differ by the number of rows.
    with pytest.raises(LoadError, match="depend on the other requests"):
        async with serving(tiny_model_path, scheduler=INVARIANT):
            pass


async def test_a_high_class_takes_a_slot_and_gives_it_back() -> None:
    async with serving(model={"runner": {"sequences": 1}}) as server:
        undisturbed = await read_all(server.stream("low", max_tokens=3000))
        low = server.stream("low", max_tokens=3000, priority=1, request_id="low")
        await server.recorder.produced("low", 20)
        with server.runner_held():
            asking = asyncio.create_task(server.generate("high", priority=3))
            await server.recorder.taken(3)
        assert (await asking).usage.completion_tokens == 8
        events = await read_all(low)
        assert server.recorder.states["low"].count(State.WAITING) == 2
    assert joined(events) == joined(undisturbed)


def joined(events: list[Any]) -> list[int]:
    return [token for event in events for token in event.delta.token_ids]


async def test_a_quota_is_a_limit_with_its_name() -> None:
    quota = {"tokens_per_second": 1.0, "burst_tokens": 20}
    async with serving(quota=quota) as server:
        metadata = (("x-tenant-id", "somebody"),)
        spend = asked("hello", max_tokens=15)
        await server.inference.Generate(spend, metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await server.inference.Generate(spend, metadata=metadata)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "quota" in str(raised.value.details())
        assert server.recorder.refusals[-1].subject == "tenant.tokens"  # type: ignore[attr-defined]
        await server.inference.Generate(spend, metadata=(("x-tenant-id", "another"),))
