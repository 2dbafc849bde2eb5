"""Responses that consist of choices: the common base of chat completions and completions."""

from __future__ import annotations

import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from llm_serving_engine.scheduler.request import FinishReason
from llm_serving_engine.server.api.body import read_body
from llm_serving_engine.server.api.caller import caller_of
from llm_serving_engine.server.api.choice_types import ChoicesBody
from llm_serving_engine.server.api.generations import answers, begun, generating, merged
from llm_serving_engine.server.api.http_exchange import EventStream, HttpExchange
from llm_serving_engine.server.api.sse import DONE, event
from llm_serving_engine.server.api.usage import timings_of, usage_of_prompts
from llm_serving_engine.server.config import HttpConfig
from llm_serving_engine.server.events import Answer, Delta, Finished, Started
from llm_serving_engine.server.service.generation import Generation
from llm_serving_engine.server.service.inference import Inference

FINISH_REASONS = {
    FinishReason.END_OF_SEQUENCE: "stop",
    FinishReason.STOP_SEQUENCE: "stop",
    FinishReason.MAX_TOKENS: "length",
    FinishReason.CONTEXT_LENGTH: "length",
}

B = TypeVar("B", bound=ChoicesBody)


class ChoicesAnswer(ABC, Generic[B]):
    """The choices of one request: those of the first prompt come first.

    Attributes:
        id_prefix: What its id begins with.
        whole_kind: What an answer calls itself that is complete.
        chunk_kind: What a chunk calls itself.
    """

    id_prefix: ClassVar[str]
    whole_kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    def __init__(
        self, body: B, generations: Sequence[Generation], fingerprint: str, config: HttpConfig
    ) -> None:
        """Answer a request with these generations.

        Args:
            body: The request.
            generations: One for each choice.
            fingerprint: Of whatever changes tokens.
            config: Limits, and the forms that can be chosen.
        """
        self.body = body
        self.generations = generations
        self.config = config
        self._fields = {
            "id": f"{self.id_prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": generations[0].call.model,
            "system_fingerprint": fingerprint,
            "object": self.chunk_kind,
        }
        # The constant parts of a chunk, encoded once.
        constant = json.dumps(self._fields, separators=(",", ":"))[:-1]
        self._head = f'data: {constant},"choices":['.encode()
        self._tail = b'],"usage":null}\n\n' if body.include_usage else b"]}\n\n"

    @abstractmethod
    def whole_choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """The fields of a complete choice, except its index and finish reason."""

    @abstractmethod
    def first(self, index: int) -> dict[str, Any] | None:
        """The fields of a choice's first chunk; None for no such chunk."""

    @abstractmethod
    def parts(self, index: int, delta: Delta) -> Iterable[dict[str, Any]]:
        """The fields of the chunks for a delta."""

    @abstractmethod
    def last(self) -> dict[str, Any]:
        """The other fields of the chunk with the finish reason."""

    async def whole(self) -> dict[str, Any]:
        """All choices, complete. Raises RequestError."""
        done = await answers(self.generations)
        choices = [
            _choice(index, self.whole_choice(index, one), one.finished)
            for index, one in enumerate(done)
        ]
        usage = usage_of_prompts([one.finished.usage for one in done], self.body.choices)
        timings = timings_of(done[0].finished)
        kind = {"object": self.whole_kind}
        return {**self._fields, **kind, "choices": choices, "usage": usage, "timings": timings}

    async def write(self, stream: EventStream) -> None:
        """Write chunks as they come. Raises RequestError."""
        finished: dict[int, Finished] = {}
        async for index, one in merged(self.generations):
            if isinstance(one, Delta):
                for part in self.parts(index, one):
                    await stream.send(self._chunk(index, part))
            elif isinstance(one, Started):
                if (first := self.first(index)) is not None:
                    await stream.send(self._chunk(index, first))
            else:
                finished[index] = one
                await stream.send(self._last_chunk(index, one))
        if self.body.include_usage:
            usages = [finished[index].usage for index in sorted(finished)]
            usage = usage_of_prompts(usages, self.body.choices)
            await stream.send(event({**self._fields, "choices": [], "usage": usage}))
        await stream.send(DONE)

    def _chunk(self, index: int, part: dict[str, Any]) -> bytes:
        text = json.dumps(_choice(index, part), ensure_ascii=False, separators=(",", ":"))
        return b"%b%b%b" % (self._head, text.encode(), self._tail)

    def _last_chunk(self, index: int, finished: Finished) -> bytes:
        chunk = {**self._fields, "choices": [_choice(index, self.last(), finished)]}
        if self.body.include_usage:
            return event({**chunk, "usage": None})
        # Many clients never ask for usage, and read it here.
        usage = usage_of_prompts([finished.usage], 1)
        return event({**chunk, "usage": usage, "timings": timings_of(finished)})


def _choice(index: int, part: dict[str, Any], finished: Finished | None = None) -> dict[str, Any]:
    reason = FINISH_REASONS[finished.finish_reason] if finished else None
    return {"index": index, "logprobs": None, **part, "finish_reason": reason}


class ChoicesHandler(Generic[B]):
    """Answers the requests of one route with choices."""

    def __init__(
        self,
        inference: Inference,
        route: str,
        body: type[B],
        answer: type[ChoicesAnswer[B]],
        fingerprint: str,
    ) -> None:
        """Answer requests.

        Args:
            inference: Generates.
            route: The route, for the log.
            body: The type of the route's bodies.
            answer: The type of the route's answers.
            fingerprint: Of whatever changes tokens.
        """
        self._inference = inference
        self._route = route
        self._body = body
        self._answer = answer
        self._fingerprint = fingerprint

    async def __call__(self, exchange: HttpExchange) -> None:
        """Answer a request. Raises RequestError."""
        body = await read_body(exchange, self._body)
        requests = body.requests(exchange.config.choices_max, exchange.request_id)
        caller = caller_of(exchange, self._route, body.timeout)
        async with generating(self._inference, requests, caller) as generations:
            answer = self._answer(body, generations, self._fingerprint, exchange.config)
            if body.stream:
                await begun(generations, exchange.config.headers_seconds)
                async with exchange.stream() as stream:
                    await answer.write(stream)
            else:
                await exchange.answer(await answer.whole())
