"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import grpc

from llm_serving_engine.clients import conversion
from llm_serving_engine.clients.catalog import Model
from llm_serving_engine.clients.channels import ADDRESS, Metadata, call_metadata, channel_options
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
from llm_serving_engine.clients.results import Generation, Tokenization
from llm_serving_engine.clients.retries import Attempts, Retries
from llm_serving_engine.clients.statuses import error_from
from llm_serving_engine.clients.stream import Stream, StreamingCall, responses
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


class Client:
    """Talks to one server. Any number of threads may use it at once.

    Every method raises a ServingError where the call fails; the module
    `errors` shows which there are. A client that is closed, or was made
    before a fork, raises RuntimeError.

    Args:
        address: "HOST:PORT", or anything that gRPC can resolve.
        tenant: On whose behalf, where the server does not authenticate.
        timeout: Seconds that each call may take, its wait in the queue
            included; None for no limit. Calls can name their own.
        attempts: How often a call that the server cannot take now is made in
            all, 1 to 100, while no output has come; at least as long apart as
            the server asks for. See `retries.py`.
        retry_seconds: How long a call may wait between its attempts, all added
            up. A server that asks for more gets no other attempt.
        keepalive: Seconds between pings while a call is open.
        credentials: For TLS; None for plain text.
        metadata: More metadata for every call.
        channel: A channel to use, of which the client becomes the owner; then
            address, keepalive, and credentials play no part.
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
        channel: grpc.Channel | None = None,
    ) -> None:
        self._fork_guard = ForkGuard()
        self._retries = Retries(attempts, retry_seconds)
        if channel is None:
            options = channel_options(keepalive)
            channel = (
                grpc.insecure_channel(address, options)
                if credentials is None
                else grpc.secure_channel(address, credentials, options)
            )
        self._channel = channel
        self._timeout = timeout
        self._metadata = call_metadata(tenant, metadata)
        self._inference = inference_pb2_grpc.InferenceServiceStub(channel)
        self._models = models_pb2_grpc.ModelServiceStub(channel)
        self._operations = operations_pb2_grpc.OperationsServiceStub(channel)

    def generate(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Generation:
        """Generate to the end and answer once.

        Args:
            prompt: A text, token ids, or a conversation's messages.
            timeout: Seconds; default: the client's.
            **options: See GenerateOptions.
        """
        request = generate_request(prompt, options)
        return conversion.generation(self._call(self._inference.Generate, request, timeout))

    def stream(
        self, prompt: Prompt, *, timeout: float | None = None, **options: Unpack[GenerateOptions]
    ) -> Stream:
        """Generate, and give the output as it is produced. The arguments are generate's."""
        request = generate_request(prompt, options)
        attempts = self._attempts(timeout)

        def begin() -> StreamingCall[inference_pb2.StreamResponse]:
            call: StreamingCall[inference_pb2.StreamResponse] = self._inference.Stream(
                request, timeout=attempts.remaining, metadata=self._metadata
            )
            return call

        return Stream(begin, attempts)

    def tokenize(
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
        return conversion.tokenization(self._call(self._inference.Tokenize, request, timeout))

    def detokenize(
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
        response = self._call(self._inference.Detokenize, request, timeout)
        return response.text

    def models(self, *, timeout: float | None = None) -> tuple[Model, ...]:
        """All models of the server, by name."""
        request = models_pb2.ListModelsRequest()
        response = self._call(self._models.ListModels, request, timeout)
        return tuple(map(conversion.model, response.models))

    def model(self, name: str = "", *, timeout: float | None = None) -> Model:
        """Return one model; without a name, the default one."""
        request = models_pb2.GetModelRequest(name=name)
        return conversion.model(self._call(self._models.GetModel, request, timeout).model)

    def scheduler_state(self, model: str = "", *, timeout: float | None = None) -> SchedulerState:
        """Return the state of a model's scheduler."""
        request = operations_pb2.GetSchedulerStateRequest(model=model)
        response = self._call(self._operations.GetSchedulerState, request, timeout)
        return scheduler_state(response.state)

    def explain(
        self, request_id: str, *, model: str = "", timeout: float | None = None
    ) -> tuple[Explanation, ...]:
        """Explain the last requests with that id, newest first. Raises NotFound."""
        request = operations_pb2.ExplainRequestRequest(request_id=request_id, model=model)
        response = self._call(self._operations.ExplainRequest, request, timeout)
        return tuple(map(explanation, response.explanations))

    def watch_scheduler_state(
        self, model: str = "", *, interval: float | None = None, timeout: float | None = None
    ) -> Iterator[SchedulerState]:
        """The state now, and again when it has changed, until the loop is left.

        Args:
            model: The model's name; default: the server's default model.
            interval: The shortest time between two readings, in seconds from
                0.1 to 3600; default: the server's.
            timeout: Seconds after which it ends with DeadlineExceeded; default:
                never, whatever the client's own.
        """
        self._fork_guard.check()
        call = self._operations.WatchSchedulerState(
            watch_request(model, interval), timeout=timeout, metadata=self._metadata
        )
        for response in responses(call):
            yield scheduler_state(response.state)

    def close(self) -> None:
        """Close the channel; calls under way end as cancelled. Closing again does nothing."""
        if self._fork_guard.close():
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout: float | None,
    ) -> _Response:
        attempts = self._attempts(timeout)
        while True:
            call = method.future(request, timeout=attempts.remaining, metadata=self._metadata)
            try:
                return call.result()
            except grpc.RpcError as error:
                failure = error_from(error)
                pause = attempts.pause(failure)
                if pause is None:
                    raise failure from error
            finally:
                call.cancel()  # An interrupt ends the request on the server too.
            time.sleep(pause)

    def _attempts(self, timeout: float | None) -> Attempts:
        self._fork_guard.check()
        return Attempts(self._retries, self._timeout if timeout is None else timeout)
