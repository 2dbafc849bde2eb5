"""Runs several generations for one request concurrently."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from llm_serving_engine.server.events import Answer, Event
from llm_serving_engine.server.service.caller import Caller
from llm_serving_engine.server.service.generation import Generation
from llm_serving_engine.server.service.inference import Inference
from llm_serving_engine.server.service.request import GenerationRequest

# Events of one answer that may wait while another's are being written.
EVENTS_AHEAD_MAX = 4


@contextlib.asynccontextmanager
async def generating(
    inference: Inference, requests: Sequence[GenerationRequest], caller: Caller
) -> AsyncIterator[list[Generation]]:
    """Put all requests into the queue; all end with the block. Raises RequestError."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(inference.generate(request, caller))
            for request in requests
        ]


async def begun(generations: Sequence[Generation], seconds: float) -> None:
    """Wait until all have left the queue, or so many seconds.

    Until then, the answer's headers are not sent, and an error has a status.

    Raises:
        RequestError: One ended with an error before.
    """
    tasks = [asyncio.create_task(generation.started()) for generation in generations]
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        await _end(tasks)


async def answers(generations: Sequence[Generation]) -> list[Answer]:
    """Every generation's answer. Raises the first RequestError."""
    if len(generations) == 1:
        return [await generations[0].answer()]
    tasks = [asyncio.create_task(generation.answer()) for generation in generations]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await _end(tasks)


async def merged(generations: Sequence[Generation]) -> AsyncIterator[tuple[int, Event]]:
    """The events of all generations as they come, each with its generation's index.

    Raises the first RequestError.
    """
    if len(generations) == 1:
        async for event in generations[0].events():
            yield 0, event
        return
    arrived: asyncio.Queue[tuple[int, Event] | BaseException | None] = asyncio.Queue(
        EVENTS_AHEAD_MAX * len(generations)
    )

    async def forward(index: int, generation: Generation) -> None:
        try:
            async for event in generation.events():
                await arrived.put((index, event))
        except Exception as error:
            await arrived.put(error)
        else:
            await arrived.put(None)

    tasks = [asyncio.create_task(forward(i, one)) for i, one in enumerate(generations)]
    try:
        running = len(tasks)
        while running:
            item = await arrived.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        await _end(tasks)


async def _end(tasks: Sequence[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
