"""The asyncio client and its stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from llm_serving_engine.clients import conversion
from llm_serving_engine.clients.catalog import Model
from llm_serving_engine.clients.channels import ADDRESS, Metadata, call_metadata, channel_options
from llm_serving_engine.clients.errors import ServingError
from llm_serving_engine.clients.explanations import Explanation, explanation
from llm_serving_engine.clients.fork_guard import ForkGuard
from llm_serving_engine.clients.operations import SchedulerState
from llm_serving_engine.clients.operations_conversion import scheduler_state
from llm_serving_engine.clients.requests import (
    GenerateOptions,
    Prompt,
    Text,
    generate_request,
    tokenize_request,
    watch_request,
)
from llm_serving_engine.clients.results import Delta, Generation, Tokenization
from llm_serving_engine.clients.retries import Attempts, Retries
from llm_serving_engine.clients.statuses import error_from
from llm_serving_engine.clients.stream_state import StreamState
from llm_serving_engine.v1 import (
    inference_pb2,
    inference_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    operations_pb2,
    operations_pb2_grpc,
)

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_StreamCall = grpc.aio.UnaryStreamCall[Any, inference_pb2.StreamResponse]


class AsyncStream(StreamState):
    """Output as it is produced; the asyncio form of Stream.

    Iterate over it once. Leaving the loop early, in any way, ends the request
    on the server; so do `cancel()`, leaving an `async with` block around it,
    and cancelling the task. The loop raises a ServingError where the request
    fails.
    """

    def __init__(self, begin: Callable[[], _StreamCall], attempts: Attempts) -> None:
        """Start the request; retry it if the server cannot accept it now."""
        super().__init__()
        self._begin = begin
        self._attempts = attempts
        self._call = begin()
        self._cancelled = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        try:
            async for response in self._responses():
                if (delta := self._take(response)) is not None:
                    yield delta
        except ServingError:
            if not self._cancelled.is_set():
                raise
        except asyncio.CancelledError:
            # grpc.aio raises this for a call cancelled on this side, too.
            if not self._cancelled.is_set() or _task_is_cancelled():
                raise
        else:
            self._close()
        finally:
            self._call.cancel()

    async def _responses(self) -> AsyncIterator[inference_pb2.StreamResponse]:
        """The messages of the first attempt that has any. Raises ServingError."""
        while True:
            begun = False
            try:
                async for response in self._call:
                    begun = True
                    yield response
                return
            except grpc.RpcError as error:
                failure = error_from(error)
                pause = None if begun else self._attempts.pause(failure)
                if pause is None or await self._is_cancelled_within(pause):
                    raise failure from error
            self._call = self._begin()

    async def _is_cancelled_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._cancelled.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    def cancel(self) -> None:
        """End the request; a loop over the stream ends without an error."""
        self._cancelled.set()
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()


class AsyncClient:
    """The asyncio form of Client: the same arguments, methods, and errors.

    To be made in a running event loop.
    """

    def __init__(
        self,
        address: str = ADDRESS,
        *,
        tenant: str | None = None,
        timeout: float | None = None,
        attempts: int = 1,
        retry_seconds: float = 60.0,
        keepalive: float = 30.0,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Metadata = (),
        channel: grpc.aio.Channel | None = None,
    ) -> None:
        self._fork_guard = ForkGuard()
        self._retries = Retries(attempts, retry_seconds)
        if channel is None:
            options = channel_options(keepalive)
            channel = (
                grpc.aio.insecure_channel(address, options)
                if credentials is None
                else grpc.aio.secure_channel(address, credentials, options)
            )
        self._channel = channel
        self._timeout = timeout
        self._metadata = call_metadata(tenant, metadata)
        self._inference = inference_pb2_grpc.InferenceServiceStub(channel)
        self._models = models_pb2_grpc.ModelServiceStub(channel)
        self._operations = operations_pb2_grpc.OperationsServiceStub(channel)

    async def generate(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Generation:
        """Generate to the end and answer once."""
        request = generate_request(prompt, options)
        return conversion.generation(await self._call(self._inference.Generate, request, timeout))

    def stream(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> AsyncStream:
        """Generate, and give the output as it is produced."""
        request = generate_request(prompt, options)
        attempts = self._attempts(timeout)

        def begin() -> _StreamCall:
            call: _StreamCall = self._inference.Stream(
                request, timeout=attempts.remaining, metadata=self._metadata
            )
            return call

        return AsyncStream(begin, attempts)

    async def tokenize(
        self,
        text: Text,
        *,
        model: str = "",
        parse_special: bool = False,
        timeout: float | None = None,
    ) -> Tokenization:
        """Tokenize a text or a conversation.

        `parse_special` makes the control tokens that a text names these tokens.
        """
        request = tokenize_request(text, model, parse_special)
        return conversion.tokenization(await self._call(self._inference.Tokenize, request, timeout))

    async def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        model: str = "",
        show_special: bool = False,
        timeout: float | None = None,
    ) -> str:
        """Tell the text of tokens; `show_special` shows control tokens by their names."""
        request = inference_pb2.DetokenizeRequest(
            model=model, token_ids=token_ids, show_special=show_special
        )
        response = await self._call(self._inference.Detokenize, request, timeout)
        return response.text

    async def models(self, *, timeout: float | None = None) -> tuple[Model, ...]:
        """All models of the server, by name."""
        request = models_pb2.ListModelsRequest()
        response = await self._call(self._models.ListModels, request, timeout)
        return tuple(map(conversion.model, response.models))

    async def model(self, name: str = "", *, timeout: float | None = None) -> Model:
        """Return one model; without a name, the default one."""
        request = models_pb2.GetModelRequest(name=name)
        response = await self._call(self._models.GetModel, request, timeout)
        return conversion.model(response.model)

    async def scheduler_state(
        self, model: str = "", *, timeout: float | None = None
    ) -> SchedulerState:
        """Return the state of a model's scheduler."""
        request = operations_pb2.GetSchedulerStateRequest(model=model)
        response = await self._call(self._operations.GetSchedulerState, request, timeout)
        return scheduler_state(response.state)

    async def explain(
        self, request_id: str, *, model: str = "", timeout: float | None = None
    ) -> tuple[Explanation, ...]:
        """Explain the last requests with that id, newest first. Raises NotFound."""
        request = operations_pb2.ExplainRequestRequest(request_id=request_id, model=model)
        response = await self._call(self._operations.ExplainRequest, request, timeout)
        return tuple(map(explanation, response.explanations))

    async def watch_scheduler_state(
        self, model: str = "", *, interval: float | None = None, timeout: float | None = None
    ) -> AsyncIterator[SchedulerState]:
        """The state now, and again when it has changed, until the loop is left."""
        self._fork_guard.check()
        call = self._operations.WatchSchedulerState(
            watch_request(model, interval), timeout=timeout, metadata=self._metadata
        )
        try:
            async for response in call:
                yield scheduler_state(response.state)
        except grpc.RpcError as error:
            raise error_from(error) from error
        finally:
            call.cancel()

    async def close(self) -> None:
        """Close the channel; calls under way end as cancelled. Closing again does nothing."""
        if self._fork_guard.close():
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout: float | None,
    ) -> _Response:
        attempts = self._attempts(timeout)
        while True:
            try:
                return await method(request, timeout=attempts.remaining, metadata=self._metadata)
            except grpc.RpcError as error:
                failure = error_from(error)
                pause = attempts.pause(failure)
                if pause is None:
                    raise failure from error
            await asyncio.sleep(pause)

    def _attempts(self, timeout: float | None) -> Attempts:
        self._fork_guard.check()
        return Attempts(self._retries, self._timeout if timeout is None else timeout)


def _task_is_cancelled() -> bool:
    """Whether the running task was cancelled. False in Python 3.10, which cannot tell."""
    task = asyncio.current_task()
    cancelling = getattr(task, "cancelling", None)
    return cancelling is not None and cancelling() > 0
