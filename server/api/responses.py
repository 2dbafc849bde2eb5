"""`POST /v1/responses`, and the routes of stored responses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from llm_serving_engine.scheduler.errors import InvalidField, RequestError
from llm_serving_engine.server.api.body import read_body
from llm_serving_engine.server.api.caller import caller_of, tenant_of
from llm_serving_engine.server.api.errors import UnknownResponse, http_error, openai_body
from llm_serving_engine.server.api.generations import begun
from llm_serving_engine.server.api.http_exchange import HttpExchange
from llm_serving_engine.server.api.response_events import ResponseEvents
from llm_serving_engine.server.api.response_resource import Resource
from llm_serving_engine.server.api.response_store import ResponseStore, Stored
from llm_serving_engine.server.api.response_types import ResponseBody
from llm_serving_engine.server.api.sse import DONE, named_event
from llm_serving_engine.server.events import Delta, Started
from llm_serving_engine.server.service.generation import Generation
from llm_serving_engine.server.service.inference import Inference
from llm_serving_engine.server.service.request import (
    Chat,
    GenerationRequest,
    Message,
    TokenizeRequest,
)

ROUTE = "/v1/responses"


class Responses:
    """Answers conversations, turn by turn."""

    def __init__(self, inference: Inference, store: ResponseStore) -> None:
        self._inference = inference
        self._store = store

    async def __call__(self, exchange: HttpExchange) -> None:
        """Answer a request. Raises RequestError."""
        body = await read_body(exchange, ResponseBody)
        body.check()
        tenant = tenant_of(exchange)
        turns = self._conversation(body, tenant)
        request = _request(body, turns, exchange.request_id)
        caller = caller_of(exchange, ROUTE, body.timeout)
        async with self._inference.generate(request, caller) as generation:
            turn = _Turn(body, generation)
            if body.stream:
                await begun([generation], exchange.config.headers_seconds)
                await turn.stream(exchange)
            else:
                await turn.run()
                await exchange.answer(turn.resource.snapshot())
        if body.store is not False:
            self._keep(tenant, body, turns, turn)

    async def input_tokens(self, exchange: HttpExchange) -> None:
        """Tell how many tokens a request's input has. Raises RequestError."""
        body = await read_body(exchange, ResponseBody)
        body.check()
        turns = self._conversation(body, tenant_of(exchange))
        chat = _chat(body, turns)
        caller = caller_of(exchange, f"{ROUTE}/input_tokens")
        tokenized = await self._inference.tokenize(TokenizeRequest(chat, body.model), caller)
        count = len(tokenized.tokens)
        await exchange.answer({"object": "response.input_tokens", "input_tokens": count})

    async def show(self, exchange: HttpExchange) -> None:
        """Tell a kept response again. Raises RequestError."""
        await exchange.answer(self._stored(exchange).response)

    async def show_input(self, exchange: HttpExchange) -> None:
        """Tell the input of a kept response. Raises RequestError."""
        items = self._stored(exchange).input_items
        ids = [item["id"] for item in items]
        page = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
        await exchange.answer({"object": "list", "data": items, **page, "has_more": False})

    async def cancel(self, exchange: HttpExchange) -> None:
        """Cancel a response: all that are kept have ended. Raises RequestError."""
        self._stored(exchange)
        raise InvalidField("id", "is a response that has ended; it cannot be cancelled")

    async def forget(self, exchange: HttpExchange) -> None:
        """Forget a kept response. Raises RequestError."""
        response_id = self._stored(exchange).id
        self._store.remove(tenant_of(exchange), response_id)
        await exchange.answer({"id": response_id, "object": "response", "deleted": True})

    def _stored(self, exchange: HttpExchange) -> Stored:
        response_id = exchange.path_parameters["id"]
        stored = self._store.get(tenant_of(exchange), response_id)
        if stored is None:
            raise UnknownResponse("id", f"no response {response_id[:80]!r} is kept")
        return stored

    def _conversation(self, body: ResponseBody, tenant: str) -> list[Message]:
        """All turns so far, and the new one. Raises InvalidField."""
        before = body.previous_response_id
        if before is None:
            return body.turns()
        stored = self._store.get(tenant, before)
        if stored is None:
            raise UnknownResponse("previous_response_id", f"no response {before[:80]!r} is kept")
        return [*stored.turns, *body.turns()]

    def _keep(self, tenant: str, body: ResponseBody, turns: list[Message], turn: _Turn) -> None:
        answer = Message("assistant", turn.text, turn.reasoning)
        response = turn.resource.snapshot()
        items = _input_items(turn.resource.id, body)
        self._store.put(Stored.of(tenant, response, (*turns, answer), items))


class _Turn:
    """One answer, whole or as a stream."""

    def __init__(self, body: ResponseBody, generation: Generation) -> None:
        self.resource = Resource(body, generation)
        self.text = self.reasoning = ""
        self._generation = generation
        self._events = ResponseEvents(
            self.resource, summarized=body.summarized, logprobs=body.top is not None
        )

    async def run(self) -> None:
        """Generate the whole response, without a stream. Raises RequestError."""
        async for _ in self._all():
            pass

    async def stream(self, exchange: HttpExchange) -> None:
        """Write the events as they come."""
        async with exchange.stream(keep_alive=self._alive) as stream:
            try:
                async for event in self._all():
                    await stream.send(_encoded(event))
            except Exception as error:
                known = error if isinstance(error, RequestError) else RequestError()
                for event in self._events.failed(openai_body(http_error(known))["error"]):
                    await stream.send(_encoded(event))
                raise
            await stream.send(DONE)

    def _alive(self) -> bytes:
        # Codex's idle timer sees events only, and no comments.
        return _encoded(self._events.in_progress())

    async def _all(self) -> AsyncIterator[dict[str, Any]]:
        for event in self._events.created():
            yield event
        async for one in self._generation.events():
            if isinstance(one, Started):
                yield self._events.in_progress()
            elif isinstance(one, Delta):
                self.text += one.text
                self.reasoning += one.reasoning
                for event in self._events.delta(one):
                    yield event
            else:
                for event in self._events.finished(one):
                    yield event


def _request(body: ResponseBody, turns: list[Message], request_id: str) -> GenerationRequest:
    return body.generation(
        _chat(body, turns),
        body.sampling(),
        model=body.model,
        max_tokens=body.max_output_tokens,
        stop=body.stops,
        request_id=request_id,
        top_logprobs=body.top,
    )


def _chat(body: ResponseBody, turns: list[Message]) -> Chat:
    effort = body.reasoning.effort if body.reasoning else None
    return body.chat(_with_instructions(body, turns), effort)


def _with_instructions(body: ResponseBody, turns: list[Message]) -> list[Message]:
    # They are of this request alone: the next one does not inherit them.
    return [Message("system", body.instructions), *turns] if body.instructions else turns


def _input_items(response_id: str, body: ResponseBody) -> list[dict[str, Any]]:
    return [
        {
            "id": f"msg_{response_id.removeprefix('resp_')}_{index}",
            "type": "message",
            "status": "completed",
            "role": turn.role,
            "content": [{"type": "input_text", "text": turn.content}],
        }
        for index, turn in enumerate(body.turns())
    ]


def _encoded(event: dict[str, Any]) -> bytes:
    return named_event(event["type"], event)
