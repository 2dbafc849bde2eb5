"""The state that synchronous and asynchronous streams share."""

from __future__ import annotations

from llm_serving_engine.clients import conversion
from llm_serving_engine.clients.errors import ServerError
from llm_serving_engine.clients.results import Delta, Finished, Started
from llm_serving_engine.v1 import inference_pb2


class StreamState:
    """Collects a stream's events.

    Attributes:
        started: The first event; None before it has arrived.
        finished: The last event; None before it has arrived, or if the stream
            was closed early.
    """

    def __init__(self) -> None:
        self.started: Started | None = None
        self.finished: Finished | None = None
        self._texts: list[str] = []
        self._token_ids: list[int] = []

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens so far."""
        return tuple(self._token_ids)

    def _take(self, response: inference_pb2.StreamResponse) -> Delta | None:
        """Store an event; return it if it is output."""
        match conversion.event(response):
            case Started() as started:
                self.started = started
            case Finished() as finished:
                self.finished = finished
            case Delta() as delta:
                self._texts.append(delta.text)
                self._token_ids += delta.token_ids
                return delta
        return None

    def _close(self) -> None:
        """Check that the stream is complete, after the server ended it without an error."""
        if self.finished is None:
            raise ServerError("the stream ended before its last event", code="OK")
