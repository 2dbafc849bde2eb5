"""`POST /v1/completions`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from llm_serving_engine.scheduler.errors import InvalidField
from llm_serving_engine.server.api.body import read_body
from llm_serving_engine.server.api.caller import caller_of
from llm_serving_engine.server.api.chat import DONE, FINISH_REASONS
from llm_serving_engine.server.api.completion_types import CompletionBody
from llm_serving_engine.server.api.exchange import EventStream, Exchange
from llm_serving_engine.server.api.generations import answers, begun, generating, merged
from llm_serving_engine.server.api.logprobs import CompletionLogprobs
from llm_serving_engine.server.api.sse import event
from llm_serving_engine.server.api.usage import timings_of, usage_of_prompts
from llm_serving_engine.server.service.events import Delta, Finished, PositionLogprobs, Started
from llm_serving_engine.server.service.generation import Generation
from llm_serving_engine.server.service.inference import Inference
from llm_serving_engine.server.service.request import GenerationRequest

ROUTE = "/v1/completions"


class Completions:
    """Continues texts."""

    def __init__(self, inference: Inference, fingerprint: str) -> None:
        self._inference = inference
        self._fingerprint = fingerprint

    async def __call__(self, exchange: Exchange) -> None:
        """Answer a request. Raises RequestError."""
        body = await read_body(exchange, CompletionBody)
        requests = _requests(body, exchange)
        caller = caller_of(exchange, ROUTE, body.timeout)
        async with generating(self._inference, requests, caller) as generations:
            answer = _Answer(body, generations, self._fingerprint)
            if body.stream:
                await begun(generations, exchange.config.headers_seconds)
                async with exchange.stream() as stream:
                    await answer.stream(stream)
            else:
                await exchange.answer(await answer.whole())


def _requests(body: CompletionBody, exchange: Exchange) -> list[GenerationRequest]:
    body.check()
    choices_max = exchange.config.choices_max
    choices = 1 if body.n is None else body.n
    in_all = choices * len(body.prompts)
    if choices < 1 or in_all > choices_max:
        raise InvalidField("n", f"asks for {in_all} answers in all; it can be 1 to {choices_max}")
    return [
        body.generation(
            prompt,
            body.sampling(choice),
            model=body.model,
            max_tokens=body.max_tokens,
            stop=body.stops,
            request_id=exchange.request_id,
            top_logprobs=body.logprobs,
        )
        for prompt in body.prompts
        for choice in range(choices)
    ]


class _Answer:
    """The choices of one request: those of the first prompt come first."""

    def __init__(
        self, body: CompletionBody, generations: Sequence[Generation], fingerprint: str
    ) -> None:
        self._body = body
        self._generations = generations
        self._choices = len(generations) // len(body.prompts)
        self._fields = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": generations[0].call.model,
            "system_fingerprint": fingerprint,
        }
        self._logprobs = [CompletionLogprobs() for _ in generations]

    async def whole(self) -> dict[str, Any]:
        """All choices, complete."""
        done = await answers(self._generations)
        choices = [
            self._choice(
                index,
                self._echoed(index) + one.text,
                self._logprobs[index].take(one.logprobs)
                if self._body.logprobs is not None
                else None,
                FINISH_REASONS[one.finished.finish_reason],
            )
            for index, one in enumerate(done)
        ]
        usage = usage_of_prompts([one.finished.usage for one in done], self._choices)
        timings = timings_of(done[0].finished)
        return {**self._fields, "choices": choices, "usage": usage, "timings": timings}

    async def stream(self, stream: EventStream) -> None:
        """Chunks of text as they come."""
        finished: dict[int, Finished] = {}
        async for index, one in merged(self._generations):
            if isinstance(one, Started):
                if self._body.echo:
                    await stream.send(event(self._chunk(index, self._echoed(index))))
            elif isinstance(one, Delta):
                await self._delta(stream, index, one)
            else:
                finished[index] = one
                await self._finish(stream, index, one)
        if self._body.include_usage:
            usages = [finished[index].usage for index in sorted(finished)]
            usage = usage_of_prompts(usages, self._choices)
            await stream.send(event({**self._fields, "choices": [], "usage": usage}))
        await stream.send(DONE)

    async def _delta(self, stream: EventStream, index: int, delta: Delta) -> None:
        logprobs = self._taken(index, delta.logprobs)
        if delta.text or logprobs:
            await stream.send(event(self._chunk(index, delta.text, logprobs)))

    async def _finish(self, stream: EventStream, index: int, finished: Finished) -> None:
        chunk = self._chunk(index, "", None, FINISH_REASONS[finished.finish_reason])
        if not self._body.include_usage:
            chunk["usage"] = usage_of_prompts([finished.usage], 1)
            chunk["timings"] = timings_of(finished)
        await stream.send(event(chunk))

    def _chunk(
        self, index: int, text: str, logprobs: Any = None, reason: str | None = None
    ) -> dict[str, Any]:
        chunk: dict[str, Any] = {
            **self._fields,
            "choices": [self._choice(index, text, logprobs, reason)],
        }
        if self._body.include_usage:
            chunk["usage"] = None
        return chunk

    @staticmethod
    def _choice(index: int, text: str, logprobs: Any, reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _taken(self, index: int, logprobs: Sequence[PositionLogprobs]) -> dict[str, Any] | None:
        wanted = self._body.logprobs is not None
        return self._logprobs[index].take(logprobs) if wanted else None

    def _echoed(self, index: int) -> str:
        return self._generations[index].prompt_text if self._body.echo else ""
