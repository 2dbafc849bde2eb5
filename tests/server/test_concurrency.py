"""Many callers at once: each gets what it would get alone."""

from __future__ import annotations

import asyncio
from typing import Any

from running_server import RunningServer, asked, read_all

SUBJECTS = (
    "The capital of France is",
    "Once upon a time there was",
    "2 + 2 =",
    "def add(a, b):",
    "The sky is",
    "My favourite food is",
    "In the beginning",
    "Water boils at",
    "The quick brown fox",
    "Python is a",
    "To be or not to be",
    "A long time ago in a",
    "The largest planet is",
    "Roses are red,",
    "She opened the door and",
    "He said that the cat",
)


def requests(max_tokens: int) -> list[dict[str, Any]]:
    """Sixteen different requests: half of them greedy, half of them drawn; of many lengths."""
    return [
        {
            # Some prompts take more than one chunk of prefill.
            "prompt": (subject * (1 + index % 4 * 2))[:150],
            "max_tokens": max_tokens - index % 5,
            "sampling": {"temperature": 0.0 if index % 2 else 0.9, "seed": index},
            "request_id": str(index),
        }
        for index, subject in enumerate(SUBJECTS)
    ]


async def answer_of(server: RunningServer, request: dict[str, Any]) -> tuple[str, list[int]]:
    """The text and tokens of a stream."""
    events = await read_all(server.inference.Stream(asked(**request)))
    assert events[0].started.request_id == request["request_id"]
    assert events[-1].finished.usage.completion_tokens == request["max_tokens"]
    deltas = [event.delta for event in events[1:-1]]
    tokens = [token for delta in deltas for token in delta.token_ids]
    return "".join(delta.text for delta in deltas), tokens


async def test_sixteen_streams_of_the_tiny_model(tiny: RunningServer) -> None:
    await check_company_changes_nothing(tiny, max_tokens=24)


async def test_sixteen_streams_of_the_builtin_model(builtin: RunningServer) -> None:
    await check_company_changes_nothing(builtin, max_tokens=8)


async def check_company_changes_nothing(server: RunningServer, max_tokens: int) -> None:
    asking = requests(max_tokens)
    alone = [await answer_of(server, one) for one in asking]
    steps_before = len(server.recorder.steps)
    # The first is not done before the last has come.
    with server.runner_held():
        answers = [asyncio.create_task(answer_of(server, one)) for one in asking]
        scheduler = server.model.engine.scheduler
        await server.recorder.until(lambda: len(scheduler.live()) == len(asking))
    together = await asyncio.gather(*answers)
    assert together == alone
    assert len({tuple(tokens) for _, tokens in alone}) == len(asking)
    # They really ran together.
    rows = [len(step.runs) for step, _ in server.recorder.steps[steps_before:]]
    assert max(rows) > 4
    assert server.slots_in_use == 0


async def test_more_streams_than_slots(tiny: RunningServer) -> None:
    asking = [
        {**one, "request_id": f"{one['request_id']} again {turn}"}
        for turn in range(4)
        for one in requests(12)
    ]
    together = await asyncio.gather(*(answer_of(tiny, one) for one in asking))
    assert together[:16] == together[16:32] == together[32:48] == together[48:]
    assert tiny.slots_in_use == 0


async def test_many_requests_end_once_each(scripted: RunningServer) -> None:
    before = len(scripted.recorder.states)
    ended = await asyncio.gather(
        *(scripted.generate(f"prompt {index}", max_tokens=1 + index % 7) for index in range(250))
    )
    assert [answer.usage.completion_tokens for answer in ended] == [
        1 + index % 7 for index in range(250)
    ]
    states = list(scripted.recorder.states.values())[before:]
    assert len(states) == 250
    assert all([state.ended for state in one].count(True) == 1 for one in states)
    assert scripted.slots_in_use == 0
