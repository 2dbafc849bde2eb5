"""`POST /v1/messages` and `/v1/messages/count_tokens`, in Anthropic's shape."""

from __future__ import annotations

import secrets
from typing import Any

from llm_serving_engine.scheduler.request import FinishReason
from llm_serving_engine.server.api.body import read_body
from llm_serving_engine.server.api.caller import caller_of
from llm_serving_engine.server.api.generations import begun
from llm_serving_engine.server.api.http_exchange import EventStream, HttpExchange
from llm_serving_engine.server.api.message_types import ConversationBody, MessagesBody
from llm_serving_engine.server.api.sse import named_event
from llm_serving_engine.server.events import Delta, Finished, Started, Usage
from llm_serving_engine.server.service.generation import Generation
from llm_serving_engine.server.service.inference import Inference
from llm_serving_engine.server.service.request import TokenizeRequest

ROUTE = "/v1/messages"
PING = named_event("ping", {"type": "ping"})

STOP_REASONS = {
    FinishReason.END_OF_SEQUENCE: "end_turn",
    FinishReason.STOP_SEQUENCE: "stop_sequence",
    FinishReason.MAX_TOKENS: "max_tokens",
    FinishReason.CONTEXT_LENGTH: "max_tokens",
}


class Messages:
    """Answers conversations."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, exchange: HttpExchange) -> None:
        """Answer a request. Raises RequestError."""
        body = await read_body(exchange, MessagesBody)
        request = body.generation(
            body.chat_to_continue(),
            body.sampling,
            model=body.model,
            max_tokens=body.max_tokens,
            stop=body.stop_sequences,
            request_id=exchange.request_id,
        )
        caller = caller_of(exchange, ROUTE, body.timeout)
        async with self._inference.generate(request, caller) as generation:
            message_id = f"msg_{secrets.token_hex(12)}"
            if body.stream:
                await begun([generation], exchange.config.headers_seconds)
                async with exchange.stream(keep_alive=lambda: PING) as stream:
                    await _Writer(stream, message_id, generation).write()
            else:
                await exchange.answer(await _message(message_id, generation))

    async def count_tokens(self, exchange: HttpExchange) -> None:
        """Tell how many tokens a conversation has. Raises RequestError."""
        body = await read_body(exchange, ConversationBody)
        request = TokenizeRequest(body.chat_to_continue(), body.model, ids_only=True)
        caller = caller_of(exchange, f"{ROUTE}/count_tokens")
        tokenized = await self._inference.tokenize(request, caller)
        await exchange.answer({"input_tokens": len(tokenized.tokens)})


async def _message(message_id: str, generation: Generation) -> dict[str, Any]:
    answer = await generation.answer()
    content = []
    if answer.reasoning:
        content.append({"type": "thinking", "thinking": answer.reasoning, "signature": ""})
    content.append({"type": "text", "text": answer.text})
    return {
        **_head(message_id, generation),
        "content": content,
        **_end(answer.finished, generation),
        "usage": _usage(answer.finished.usage),
    }


def _head(message_id: str, generation: Generation) -> dict[str, Any]:
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": generation.call.model,
    }


def _end(finished: Finished, generation: Generation) -> dict[str, Any]:
    return {
        "stop_reason": STOP_REASONS[finished.finish_reason],
        "stop_sequence": generation.stop_sequence,
    }


def _usage(usage: Usage) -> dict[str, int]:
    """Tokens read from the cache are not among `input_tokens`."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_prompt_tokens,
        "output_tokens": usage.completion_tokens,
    }


class _Writer:
    """Writes the events of a message: its blocks come one after the other."""

    def __init__(self, stream: EventStream, message_id: str, generation: Generation) -> None:
        self._stream = stream
        self._id = message_id
        self._generation = generation
        self._index = -1
        self._kind: str | None = None

    async def write(self) -> None:
        """Write all events. Raises RequestError where the request fails."""
        async for one in self._generation.events():
            if isinstance(one, Started):
                await self._start(one)
            elif isinstance(one, Delta):
                if one.reasoning:
                    await self._delta("thinking", one.reasoning)
                if one.text:
                    await self._delta("text", one.text)
            else:
                await self._finish(one)

    async def _start(self, started: Started) -> None:
        usage = _usage(Usage(started.prompt_tokens, started.cached_prompt_tokens, 0))
        message = {
            **_head(self._id, self._generation),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        await self._send("message_start", message=message)
        await self._stream.send(PING)

    async def _delta(self, kind: str, text: str) -> None:
        if self._kind != kind:
            await self._begin_block(kind)
        delta = {"type": f"{kind}_delta", kind: text}
        await self._send("content_block_delta", index=self._index, delta=delta)

    async def _begin_block(self, kind: str) -> None:
        await self._end_block()
        self._kind = kind
        self._index += 1
        block = {"type": kind, kind: ""}
        if kind == "thinking":
            block["signature"] = ""
        await self._send("content_block_start", index=self._index, content_block=block)

    async def _end_block(self) -> None:
        if self._kind == "thinking":
            delta = {"type": "signature_delta", "signature": ""}
            await self._send("content_block_delta", index=self._index, delta=delta)
        if self._kind is not None:
            await self._send("content_block_stop", index=self._index)
        self._kind = None

    async def _finish(self, finished: Finished) -> None:
        if self._index < 0:
            # Clients expect a block, be there text or not.
            await self._begin_block("text")
        await self._end_block()
        delta = _end(finished, self._generation)
        await self._send("message_delta", delta=delta, usage=_usage(finished.usage))
        await self._send("message_stop")

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._stream.send(named_event(kind, {"type": kind, **fields}))
