"""Generate, Stream, and Tokenize."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from llm_serving_engine.scheduler.errors import Cancelled, DeadlinePassed, RequestError
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.server.catalog import Catalog
from llm_serving_engine.server.config import GenerationConfig
from llm_serving_engine.server.encoding import (
    delta_event,
    encode_answer,
    finished_event,
    started_event,
)
from llm_serving_engine.server.generation import Generation
from llm_serving_engine.server.model import ServedModel
from llm_serving_engine.server.patience import Patience
from llm_serving_engine.server.statuses import INTERNAL_MESSAGE
from llm_serving_engine.server.telemetry.logs import log_request
from llm_serving_engine.server.telemetry.metrics import Metrics
from llm_serving_engine.server.telemetry.tracing import (
    CHAT,
    TEXT_COMPLETION,
    RequestSpan,
    RequestTracer,
)
from llm_serving_engine.server.validation import (
    REQUEST_ID_CHARACTERS_MAX,
    Caller,
    parse_generate,
    parse_tokenize,
)
from llm_serving_engine.v1 import inference_pb2, inference_pb2_grpc

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
TENANT_KEY = "x-tenant-id"

# A caller's own timer may end its call before the deadline is over here: by the
# time that the request took to arrive. Whoever leaves so late was made to by it.
DEADLINE_SLACK_SECONDS = 0.05

Context = grpc.aio.ServicerContext[Any, Any]


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Generates text with the models of a catalog."""

    def __init__(
        self,
        catalog: Catalog,
        config: GenerationConfig,
        tracer: RequestTracer | None = None,
        metrics: Metrics | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._catalog = catalog
        self._config = config
        self._tracer = tracer or RequestTracer()
        self._metrics = metrics or Metrics()
        self._patience = patience or Patience()

    async def Generate(  # noqa: N802
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> inference_pb2.GenerateResponse:
        """Run a request to its end, and answer once."""
        async with self._observed("Generate", request, context) as observed:
            model, generation = await self._begin(request, context, observed)
            deltas = [delta async for delta in generation.deltas()]
            return encode_answer(generation, model, deltas)

    async def Stream(  # type: ignore[override]  # noqa: N802
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> None:
        """Run a request, and write its output as it comes."""
        async with self._observed("Stream", request, context) as observed:
            model, generation = await self._begin(request, context, observed)
            await generation.started()
            with self._patience.reader(context) as reader:
                await reader.write(started_event(generation, model))
                async for delta in generation.deltas():
                    await reader.write(delta_event(delta, model.tokenizer))
                await reader.write(finished_event(generation))

    async def Tokenize(  # noqa: N802
        self, request: inference_pb2.TokenizeRequest, context: Context
    ) -> inference_pb2.TokenizeResponse:
        """Tell a text's tokens."""
        model = self._catalog.get(request.model)
        tokens = await parse_tokenize(request, model, self._config)
        names = [model.tokenizer.name(token) for token in tokens]
        return inference_pb2.TokenizeResponse(model=model.name, token_ids=tokens, tokens=names)

    async def _begin(
        self, request: inference_pb2.GenerateRequest, context: Context, observed: _Observed
    ) -> tuple[ServedModel, Generation]:
        model = observed.model = self._catalog.get(request.model)
        engine = model.engine
        remaining = context.time_remaining()
        deadline = None if remaining is None else engine.clock() + remaining
        caller = Caller(_tenant(context), deadline)
        call = await parse_generate(request, model, self._config, caller)
        operation = CHAT if call.chat else TEXT_COMPLETION
        observed.request_id = call.request_id
        observed.span.describe(
            call.request,
            model.name,
            request_id=call.request_id,
            operation=operation,
            stop=call.stops,
        )
        observed.submitting = True
        observed.generation = Generation(engine, model.tokenizer, call)
        return model, observed.generation

    @contextlib.asynccontextmanager
    async def _observed(
        self, rpc: str, request: inference_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[_Observed]:
        """Whatever happens inside ends the request, its span, and its log line."""
        method = f"{SERVICE}/{rpc}"
        span = self._tracer.start(method, context.invocation_metadata())
        observed = _Observed(span, request.request_id[:REQUEST_ID_CHARACTERS_MAX])
        error: RequestError | None = None
        code = "OK"
        try:
            yield observed
        except RequestError as raised:
            error, code = raised, raised.code
            raise
        except (asyncio.CancelledError, grpc.aio.InternalError):
            # gRPC cancels the handler for a deadline and for a cancellation alike,
            # if a write does not fail first.
            error = _gone(context)
            code = error.code
            raise
        except Exception:
            error = RequestError(INTERNAL_MESSAGE)
            code = error.code
            raise
        finally:
            observed.abandon(error)
            self._tell(method, code, error, observed)

    def _tell(
        self, method: str, code: str, error: RequestError | None, observed: _Observed
    ) -> None:
        course = observed.course
        if course is not None and course.error is not None:
            error = course.error
        model = "" if observed.model is None else observed.model.name
        if error is not None and not observed.submitting:
            self._metrics.refused(model, error)
        observed.span.end(course, code, error)
        log_request(
            rpc=method,
            status_code=code,
            request_id=observed.request_id,
            trace_id=observed.span.trace_id,
            model=model,
            sequence=course,
            error=error,
        )


class _Observed:
    """What is known of an RPC when it ends, wherever it came to."""

    def __init__(self, span: RequestSpan, request_id: str) -> None:
        self.span = span
        self.request_id = request_id
        self.model: ServedModel | None = None
        self.generation: Generation | None = None
        self.submitting = False

    @property
    def course(self) -> Sequence | None:
        return None if self.generation is None else self.generation.course

    def abandon(self, error: RequestError | None) -> None:
        if self.generation is not None:
            self.generation.abandon(error)


def _gone(context: Context) -> RequestError:
    remaining = context.time_remaining()
    if remaining is not None and remaining <= DEADLINE_SLACK_SECONDS:
        return DeadlinePassed(DeadlinePassed.RUNNING_TIMEOUT, "the deadline passed")
    return Cancelled("the caller cancelled")


def _tenant(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == TENANT_KEY:
            return value if isinstance(value, str) else value.decode("ascii", "replace")
    return ""
