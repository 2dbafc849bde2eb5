"""`POST /v1/chat/completions`."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from llm_serving_engine.scheduler.errors import InvalidField
from llm_serving_engine.scheduler.request import FinishReason
from llm_serving_engine.server.api.body import read_body
from llm_serving_engine.server.api.caller import caller_of
from llm_serving_engine.server.api.chat_types import ChatBody
from llm_serving_engine.server.api.exchange import EventStream, Exchange
from llm_serving_engine.server.api.generations import answers, begun, generating, merged
from llm_serving_engine.server.api.logprobs import chat_logprobs
from llm_serving_engine.server.api.sse import event
from llm_serving_engine.server.api.usage import chat_usage, timings_of
from llm_serving_engine.server.service.events import Answer, Delta, Finished, Started, Usage
from llm_serving_engine.server.service.generation import Generation
from llm_serving_engine.server.service.inference import Inference
from llm_serving_engine.server.service.request import GenerationRequest

ROUTE = "/v1/chat/completions"
DONE = b"data: [DONE]\n\n"

# The names of the field that holds reasoning: clients differ.
REASONING_NAMES = {
    "reasoning_content": ("reasoning_content",),
    "reasoning": ("reasoning",),
    "both": ("reasoning_content", "reasoning"),
}

FINISH_REASONS = {
    FinishReason.END_OF_SEQUENCE: "stop",
    FinishReason.STOP_SEQUENCE: "stop",
    FinishReason.MAX_TOKENS: "length",
    FinishReason.CONTEXT_LENGTH: "length",
}


class ChatCompletions:
    """Answers conversations."""

    def __init__(self, inference: Inference, fingerprint: str) -> None:
        self._inference = inference
        self._fingerprint = fingerprint

    async def __call__(self, exchange: Exchange) -> None:
        """Answer a request. Raises RequestError."""
        body = await read_body(exchange, ChatBody)
        requests = _requests(body, exchange)
        caller = caller_of(exchange, ROUTE, body.timeout)
        async with generating(self._inference, requests, caller) as generations:
            head = _Head(generations[0].call.model, self._fingerprint)
            if body.stream:
                await self._stream(exchange, body, generations, head)
            else:
                done = await answers(generations)
                names = REASONING_NAMES[exchange.config.reasoning_field]
                await exchange.answer(_completion(head, body, done, names))

    async def _stream(
        self, exchange: Exchange, body: ChatBody, generations: Sequence[Generation], head: _Head
    ) -> None:
        await begun(generations, exchange.config.headers_seconds)
        async with exchange.stream() as stream:
            names = REASONING_NAMES[exchange.config.reasoning_field]
            writer = _Writer(stream, head, body, names)
            async for index, one in merged(generations):
                if isinstance(one, Started):
                    await writer.begin(index)
                elif isinstance(one, Delta):
                    await writer.delta(index, one)
                else:
                    await writer.finish(index, one)
            await writer.end()


def _requests(body: ChatBody, exchange: Exchange) -> list[GenerationRequest]:
    body.check()
    choices_max = exchange.config.choices_max
    choices = 1 if body.n is None else body.n
    if not 1 <= choices <= choices_max:
        raise InvalidField("n", f"is {choices}; it can be 1 to {choices_max}")
    chat = body.chat(body.conversation(), body.reasoning_effort)
    return [
        body.generation(
            chat,
            body.sampling(choice),
            model=body.model,
            max_tokens=body.output_tokens(),
            stop=body.stops,
            request_id=exchange.request_id,
            top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        )
        for choice in range(choices)
    ]


class _Head:
    """What is the same in all chunks of an answer."""

    def __init__(self, model: str, fingerprint: str) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.model = model
        self.fingerprint = fingerprint

    def fields(self, kind: str) -> dict[str, Any]:
        """The fields that begin an object of this kind."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def _completion(
    head: _Head, body: ChatBody, done: Sequence[Answer], names: Sequence[str]
) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": _whole_message(answer, names),
            "logprobs": chat_logprobs(answer.logprobs) if body.logprobs else None,
            "finish_reason": FINISH_REASONS[answer.finished.finish_reason],
        }
        for index, answer in enumerate(done)
    ]
    return {
        **head.fields("chat.completion"),
        "choices": choices,
        "usage": chat_usage([answer.finished.usage for answer in done]),
        "timings": timings_of(done[0].finished),
    }


def _whole_message(answer: Answer, names: Sequence[str]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.reasoning:
        message.update(dict.fromkeys(names, answer.reasoning))
    return message


class _Writer:
    """Writes chunks. The constant part of a chunk of text is encoded once for each choice."""

    def __init__(
        self, stream: EventStream, head: _Head, body: ChatBody, reasoning_names: Sequence[str]
    ) -> None:
        self._stream = stream
        self._reasoning_names = reasoning_names
        self._fields = head.fields("chat.completion.chunk")
        self._logprobs = bool(body.logprobs)
        self._include_usage = body.include_usage
        self._usages: list[Usage] = []
        constant = json.dumps(self._fields, separators=(",", ":"))[:-1]
        self._constant = f"data: {constant},".encode()
        self._tail = b',"usage":null}\n\n' if self._include_usage else b"}\n\n"

    async def begin(self, index: int) -> None:
        """The first chunk of a choice tells the role."""
        await self._write(index, {"role": "assistant", "content": ""})

    async def delta(self, index: int, delta: Delta) -> None:
        """More text, or more reasoning."""
        logprobs = chat_logprobs(delta.logprobs) if self._logprobs else None
        if delta.reasoning:
            await self._write(index, dict.fromkeys(self._reasoning_names, delta.reasoning))
        if delta.text or (logprobs and not delta.reasoning):
            await self._write(index, {"content": delta.text}, logprobs)

    async def finish(self, index: int, finished: Finished) -> None:
        """The last chunk of a choice, with usage where no chunk of its own will tell it."""
        self._usages.append(finished.usage)
        choice = {
            "index": index,
            "delta": {},
            "logprobs": None,
            "finish_reason": FINISH_REASONS[finished.finish_reason],
        }
        chunk: dict[str, Any] = {**self._fields, "choices": [choice]}
        # Many clients never ask for usage, and read it here.
        chunk["usage"] = None if self._include_usage else chat_usage([finished.usage])
        if not self._include_usage:
            chunk["timings"] = timings_of(finished)
        await self._stream.send(event(chunk))

    async def end(self) -> None:
        """The end of the stream, after the usage of all choices where that was asked for."""
        if self._include_usage:
            usage = chat_usage(self._usages)
            chunk = {**self._fields, "choices": [], "usage": usage}
            await self._stream.send(event(chunk))
        await self._stream.send(DONE)

    async def _write(
        self, index: int, delta: dict[str, str], logprobs: dict[str, Any] | None = None
    ) -> None:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        text = json.dumps([choice], ensure_ascii=False, separators=(",", ":"))
        await self._stream.send(b'%b"choices":%b%b' % (self._constant, text.encode(), self._tail))
