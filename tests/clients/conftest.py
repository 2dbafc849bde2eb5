"""A server that plays the contract's part without a model, and fixtures that run it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_status import rpc_status

from llm_serving_engine.v1 import (
    generation_pb2,
    inference_pb2,
    inference_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    operations_pb2,
    operations_pb2_grpc,
)

Abort = Callable[[Any], Awaitable[None]]


class FakeServer(
    inference_pb2_grpc.InferenceServiceServicer,
    models_pb2_grpc.ModelServiceServicer,
    operations_pb2_grpc.OperationsServiceServicer,
):
    """Answers "w0 w1 w2 ..." up to `max_tokens`.

    Attributes:
        requests: Every GenerateRequest that came, oldest first.
        metadata: The metadata of each.
        failures: The next calls fail with these, one each.
        fail_after: A failure for streams, after this many deltas.
        hang_after: Streams stop after this many deltas, and wait to be ended.
        truncated: Streams end without `finished`.
        hangs: Which streams do.
        ended: Set when a call was ended before its time.
        on_hang: Called when a call has come to hang.
        watches_end: So many watches end after two readings; the others hang.
    """

    def __init__(self) -> None:
        self.address = ""
        self.requests: list[inference_pb2.GenerateRequest] = []
        self.metadata: list[dict[str, str]] = []
        self.failures: list[Abort] = []
        self.fail_after: tuple[int, Abort] | None = None
        self.hang_after: int | None = None
        self.hangs: Callable[[inference_pb2.GenerateRequest], bool] = lambda request: True
        self.truncated = False
        self.ended = threading.Event()
        self.on_hang: Callable[[], None] = lambda: None
        self.watches_end = 0

    async def Generate(self, request, context):  # noqa: N802
        await self._admit(request, context)
        if self.hang_after is not None:
            await self._hang()
        tokens = range(request.max_tokens)
        return inference_pb2.GenerateResponse(
            request_id=request.request_id or "made-up",
            model="tiny",
            text="".join(map(word, tokens)),
            token_ids=tokens,
            logprobs=[logprobs(token) for token in tokens if request.HasField("top_logprobs")],
            finish_reason=generation_pb2.FINISH_REASON_MAX_TOKENS,
            usage=usage(request),
            timings=TIMINGS,
        )

    async def Stream(self, request, context):  # noqa: N802
        await self._admit(request, context)
        whole = False
        try:
            async for response in self._events(request, context):
                yield response
            whole = True
        finally:
            if not whole:
                self.ended.set()

    async def _events(self, request, context):
        started = inference_pb2.StreamResponse.Started(
            request_id=request.request_id or "made-up", model="tiny", prompt_tokens=3
        )
        yield inference_pb2.StreamResponse(started=started)
        for token in range(request.max_tokens):
            if self.hang_after == token and self.hangs(request):
                await self._hang()
            if self.fail_after and self.fail_after[0] == token:
                await self.fail_after[1](context)
            delta = inference_pb2.StreamResponse.Delta(text=word(token), token_ids=[token])
            if request.HasField("top_logprobs"):
                delta.logprobs.append(logprobs(token))
            yield inference_pb2.StreamResponse(delta=delta)
        if not self.truncated:
            finished = inference_pb2.StreamResponse.Finished(
                finish_reason=generation_pb2.FINISH_REASON_MAX_TOKENS,
                usage=usage(request),
                timings=TIMINGS,
            )
            yield inference_pb2.StreamResponse(finished=finished)

    async def Tokenize(self, request, context):  # noqa: N802
        words = (request.text or request.chat.messages[0].content).split()
        return inference_pb2.TokenizeResponse(
            model=request.model or "tiny",
            token_ids=range(len(words)),
            tokens=[word.encode() for word in words],
        )

    async def Detokenize(self, request, context):  # noqa: N802
        words = [
            f"<{token}>" if request.show_special else str(token) for token in request.token_ids
        ]
        return inference_pb2.DetokenizeResponse(model=request.model, text=" ".join(words))

    async def ListModels(self, request, context):  # noqa: N802
        return models_pb2.ListModelsResponse(models=[TINY, LOADING])

    async def GetModel(self, request, context):  # noqa: N802
        return models_pb2.GetModelResponse(model=TINY)

    async def GetSchedulerState(self, request, context):  # noqa: N802
        return operations_pb2.GetSchedulerStateResponse(state=STATE)

    async def WatchSchedulerState(self, request, context):  # noqa: N802
        self.watched = request
        for _ in range(2):
            yield operations_pb2.WatchSchedulerStateResponse(state=STATE)
        if self.watches_end:
            self.watches_end -= 1
            return
        if self.failures:
            await self.failures.pop(0)(context)
        await self._hang()

    async def ExplainRequest(self, request, context):  # noqa: N802
        await self._admit(request, context)
        explained = operations_pb2.RequestExplanation(
            request_id=request.request_id, model=request.model, sentences=["It\nwaited."]
        )
        return operations_pb2.ExplainRequestResponse(explanations=[explained])

    async def _admit(self, request, context) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.failures:
            await self.failures.pop(0)(context)

    async def _hang(self) -> None:
        self.on_hang()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    def fail(self, code: grpc.StatusCode, message: str = "no", *details: Message, **trailers: str):
        """A failure with google.rpc details, and trailers with "-" where the name has "_"."""

        async def abort(context: Any) -> None:
            status = status_pb2.Status(code=code.value[0], message=message)
            for detail in details:
                status.details.append(packed(detail))
            context.set_trailing_metadata(
                [(key.replace("_", "-"), value) for key, value in trailers.items()]
            )
            if details:
                await context.abort_with_status(rpc_status.to_status(status))
            await context.abort(code, message)

        return abort


def packed(detail: Message) -> any_pb2.Any:
    wrapped = any_pb2.Any()
    wrapped.Pack(detail)
    return wrapped


def word(token: int) -> str:
    return f"w{token} "


def usage(request: inference_pb2.GenerateRequest) -> generation_pb2.Usage:
    return generation_pb2.Usage(
        prompt_tokens=3, cached_prompt_tokens=1, completion_tokens=request.max_tokens
    )


def logprobs(token: int) -> generation_pb2.PositionLogprobs:
    chosen = generation_pb2.TokenLogprob(token_id=token, token=word(token).encode(), logprob=-0.5)
    other = generation_pb2.TokenLogprob(token_id=99, token=b"\xff", logprob=-1.5)
    return generation_pb2.PositionLogprobs(chosen=chosen, top=[chosen, other])


TIMINGS = generation_pb2.Timings(
    queue=duration_pb2.Duration(nanos=250_000_000),
    prefill=duration_pb2.Duration(seconds=1),
    decode=duration_pb2.Duration(seconds=2, nanos=500_000_000),
    time_to_first_token=duration_pb2.Duration(seconds=1, nanos=250_000_000),
)

TINY = models_pb2.Model(
    name="tiny",
    backend="scripted",
    vocabulary_size=100,
    state=models_pb2.MODEL_STATE_READY,
    capabilities=models_pb2.Capabilities(sequences_max=4, context_per_sequence=256, chat=True),
    is_default=True,
)
LOADING = models_pb2.Model(name="zoo", state=models_pb2.MODEL_STATE_LOADING)

STATE = operations_pb2.SchedulerState(
    model="tiny",
    queues=[
        operations_pb2.QueueState(priority=generation_pb2.PRIORITY_HIGH, requests=2, tokens=300)
    ],
    slots=[
        operations_pb2.Slot(
            index=0,
            state=operations_pb2.SLOT_STATE_DECODE,
            request_id="r1",
            priority=generation_pb2.PRIORITY_UNSPECIFIED,
            tokens=40,
            completion_tokens=7,
            tenant="acme",
        ),
        operations_pb2.Slot(index=1, state=operations_pb2.SLOT_STATE_FREE),
    ],
    last_step=operations_pb2.StepState(
        number=12, decode_rows=1, duration=duration_pb2.Duration(nanos=10_000_000)
    ),
    tokens_per_second=42.5,
    outcomes={"finished": 3},
)
STATE.time.FromJsonString("2030-01-02T03:04:05Z")


async def start(servicer: FakeServer) -> grpc.aio.Server:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)
    models_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    operations_pb2_grpc.add_OperationsServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    return server


@pytest.fixture
async def aio_server() -> AsyncIterator[FakeServer]:
    """The fake in the test's own event loop."""
    servicer = FakeServer()
    server = await start(servicer)
    yield servicer
    await server.stop(None)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """The fake in an event loop of another thread."""
    servicer = FakeServer()
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    done = asyncio.Event()

    async def serve() -> None:
        running = await start(servicer)
        ready.set()
        await done.wait()
        await running.stop(None)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(30)
    yield servicer
    loop.call_soon_threadsafe(done.set)
    thread.join(30)
    loop.close()
