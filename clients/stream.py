"""A stream of output for synchronous callers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar

import grpc

from llm_serving_engine.clients.errors import ServingError
from llm_serving_engine.clients.results import Delta
from llm_serving_engine.clients.retries import Attempts
from llm_serving_engine.clients.statuses import error_from
from llm_serving_engine.clients.stream_state import StreamState
from llm_serving_engine.v1 import inference_pb2

if TYPE_CHECKING:
    from typing_extensions import Self

_Response = TypeVar("_Response", covariant=True)


class StreamingCall(Iterable[_Response], Protocol[_Response]):
    """What is used of gRPC's call object."""

    def cancel(self) -> bool:
        """End the RPC."""


def responses(call: StreamingCall[_Response]) -> Iterator[_Response]:
    """The call's messages. Cancels the call when left early; raises ServingError."""
    try:
        yield from call
    except grpc.RpcError as error:
        raise error_from(error) from error
    finally:
        call.cancel()


class Stream(StreamState):
    """Output as it is produced.

    Iterate over it once. Leaving the loop early, in any way, ends the request
    on the server; so do `cancel()` and leaving a `with` block around it. The
    loop raises a ServingError where the request fails.
    """

    def __init__(
        self, begin: Callable[[], StreamingCall[inference_pb2.StreamResponse]], attempts: Attempts
    ) -> None:
        """Start the request; retry it if the server cannot accept it now."""
        super().__init__()
        self._begin = begin
        self._attempts = attempts
        self._call = begin()
        self._cancelled = threading.Event()

    def __iter__(self) -> Iterator[Delta]:
        try:
            for response in self._responses():
                if (delta := self._take(response)) is not None:
                    yield delta
        except ServingError:
            if not self._cancelled.is_set():
                raise
        else:
            self._close()

    def cancel(self) -> None:
        """End the request; a loop over the stream ends without an error. For any thread."""
        self._cancelled.set()
        self._call.cancel()

    def _responses(self) -> Iterator[inference_pb2.StreamResponse]:
        """The messages of the first attempt that has any. Raises ServingError."""
        while True:
            begun = False
            try:
                for response in responses(self._call):
                    begun = True
                    yield response
                return
            except ServingError as error:
                pause = None if begun else self._attempts.pause(error)
                if pause is None or self._cancelled.wait(pause):
                    raise
            self._call = self._begin()
            if self._cancelled.is_set():
                self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()
