"""Serves inference requests of all transports."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from typing import NamedTuple

from llm_serving_engine.scheduler.errors import InvalidField, LimitReached, RequestError
from llm_serving_engine.server.catalog import Catalog
from llm_serving_engine.server.config import GenerationConfig
from llm_serving_engine.server.engine.engine import Engine
from llm_serving_engine.server.model import ServedModel
from llm_serving_engine.server.service.call_telemetry import CallTelemetry
from llm_serving_engine.server.service.caller import Caller
from llm_serving_engine.server.service.errors import INTERNAL_MESSAGE
from llm_serving_engine.server.service.generation import Generation
from llm_serving_engine.server.service.prompts import detokenize, parse_tokenize
from llm_serving_engine.server.service.request import (
    DetokenizeRequest,
    GenerationRequest,
    TokenizeRequest,
)
from llm_serving_engine.server.service.validation import (
    REQUEST_ID_CHARACTERS_MAX,
    parse_generate,
)
from llm_serving_engine.server.telemetry.metrics import Metrics
from llm_serving_engine.server.telemetry.tracing import RequestTracer
from llm_serving_engine.server.text_executor import TextExecutor

# The names of more tokens are collected on another thread.
INLINE_TOKENS_MAX = 4096
# gRPC clients refuse larger messages unless they are told otherwise.
ANSWER_BYTES_MAX = 4 * 1024 * 1024
# Of an answer: a token's id, and the head of its name.
ID_BYTES = 3
NAME_BYTES = 3


class Tokenized(NamedTuple):
    """The tokens of a text, and the model with the vocabulary.

    Attributes:
        model: The model's name.
        tokens: The tokens, in order.
        names: The bytes that each stands for; empty where only ids were asked for.
    """

    model: str
    tokens: tuple[int, ...]
    names: list[bytes]


class Inference:
    """Generates and tokenizes with the models of a catalog.

    Each call is validated, held against the limits, traced, counted, and
    logged here, so that all transports do the same.
    """

    def __init__(
        self,
        catalog: Catalog,
        config: GenerationConfig,
        tracer: RequestTracer | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._catalog = catalog
        self._config = config
        self._tracer = tracer or RequestTracer()
        self._metrics = metrics or Metrics()

    @contextlib.asynccontextmanager
    async def generate(
        self, request: GenerationRequest, caller: Caller
    ) -> AsyncIterator[Generation]:
        """Validate a request and queue it at its model; then run the block.

        When the block ends, however it ends, so does the request. A caller
        that has gone is told by cancelling the task.

        Raises:
            RequestError: The request is not valid, or it is refused.
        """
        async with self._observed(caller) as telemetry:
            telemetry.request_id = request.request_id[:REQUEST_ID_CHARACTERS_MAX]
            yield await self._submit(request, caller, telemetry)

    async def tokenize(self, request: TokenizeRequest, caller: Caller) -> Tokenized:
        """A text's tokens. Raises RequestError."""
        async with self._observed(caller) as telemetry:
            model = self._catalog.get(request.model)
            telemetry.model = model.name
            tokens = await parse_tokenize(request, model, self._config)
            names = await _names(tokens, model) if not request.ids_only else []
            _check_answer(tokens, names)
            return Tokenized(model.name, tokens, names)

    async def detokenize(self, request: DetokenizeRequest, caller: Caller) -> tuple[str, str]:
        """Return the model with the vocabulary, and the tokens' text. Raises RequestError."""
        async with self._observed(caller) as telemetry:
            model = self._catalog.get(request.model)
            telemetry.model = model.name
            return model.name, await detokenize(request, model, self._config)

    async def _submit(
        self, request: GenerationRequest, caller: Caller, telemetry: CallTelemetry
    ) -> Generation:
        model = self._catalog.get(request.model)
        telemetry.model = model.name
        engine = model.engine
        _check_queue(engine, model.text_executor)
        remaining = caller.remaining()
        deadline = math.inf if remaining is None else engine.clock() + remaining
        call = await parse_generate(request, model, self._config, caller.tenant, deadline)
        telemetry.request_id = call.request_id
        telemetry.span.describe(
            call.request,
            model.name,
            request_id=call.request_id,
            stop=call.stops,
        )
        telemetry.submitting = True
        telemetry.generation = Generation(engine, model.tokenizer, call)
        return telemetry.generation

    @contextlib.asynccontextmanager
    async def _observed(self, caller: Caller) -> AsyncIterator[CallTelemetry]:
        """Whatever happens in the block ends the request, its span, and its log line."""
        telemetry = CallTelemetry(caller, self._tracer, self._metrics)
        error: RequestError | None = None
        try:
            yield telemetry
        except RequestError as raised:
            error = raised
            raise
        except (asyncio.CancelledError, GeneratorExit):
            error = telemetry.departure()
            raise
        except Exception:
            error = RequestError(INTERNAL_MESSAGE)
            raise
        finally:
            telemetry.end("OK" if error is None else error.code, error)


def _check_queue(engine: Engine, text: TextExecutor) -> None:
    """Count requests that are being tokenized as queued. Raises LimitReached."""
    scheduler = engine.scheduler
    limit = scheduler.config.queue_requests_max
    if text.requests and text.requests + len(scheduler.queue) >= limit:
        raise LimitReached(
            "queue.requests",
            f"the queue is full: {limit} requests wait or are being tokenized",
            scheduler.admission.retry_after,
        )


async def _names(tokens: tuple[int, ...], model: ServedModel) -> list[bytes]:
    def names() -> list[bytes]:
        return [model.tokenizer.name(token) for token in tokens]

    if len(tokens) <= INLINE_TOKENS_MAX:
        return names()
    return await model.text_executor.run(len(tokens), names)


def _check_answer(tokens: tuple[int, ...], names: list[bytes]) -> None:
    size = ID_BYTES * len(tokens) + NAME_BYTES * len(names) + sum(map(len, names))
    if size > ANSWER_BYTES_MAX:
        less = "set ids_only, or send" if names else "send"
        raise InvalidField(
            "input",
            f"has {len(tokens)} tokens, whose answer would have about {size / 1e6:.1f} MB; "
            f"clients take {ANSWER_BYTES_MAX / 2**20:g} MiB: {less} the text in parts",
        )
