"""Load on a server that streams over HTTP, by server-sent events.

What is common to such servers. A kind of server is a subclass, which says what
to ask and how to read what comes.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp

from llm_serving_engine.clients.bench.plan import PlannedRequest
from llm_serving_engine.clients.bench.record import DEADLINE_EXCEEDED, UNAVAILABLE
from llm_serving_engine.clients.bench.target import Ended, Output, ServerFacts, TargetError

if TYPE_CHECKING:
    from typing_extensions import Self

Event = dict[str, Any]

ASK_SECONDS = 10.0  # what a question about the server itself may take
LINE_BYTES_MAX = 4 * 2**20  # an event may repeat the whole prompt
DATA, ERROR, DONE = b"data:", b"error:", b"[DONE]"
CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: DEADLINE_EXCEEDED,
    413: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: UNAVAILABLE,
    503: UNAVAILABLE,
    504: DEADLINE_EXCEEDED,
}
"""The gRPC code that says what an HTTP status says, so that errors compare."""


class Reader(Protocol):
    """Makes output of the events of one stream."""

    def take(self, event: Event) -> Output | None:
        """What an event brings, if anything."""

    def ended(self) -> Ended:
        """What the server has said at the end."""


class HttpTarget(abc.ABC):
    """To be used in an `async with` block.

    Args:
        url: The server's, without a path.
        model: The model's name; empty for the server's choice.
        timeout: Seconds that a request may take which has no deadline.
    """

    salted = False
    path: str
    """Where completions are asked for."""

    def __init__(self, url: str, *, model: str = "", timeout: float | None = None) -> None:
        self._url = url.rstrip("/")
        self._model = model
        self._timeout = timeout
        # A server may hold a thread for a connection that is kept open, so each request has
        # one of its own; none waits for another's.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, read_bufsize=LINE_BYTES_MAX)

    @abc.abstractmethod
    async def describe(self) -> ServerFacts:
        """See Target."""

    @abc.abstractmethod
    def _body(self, request: PlannedRequest) -> dict[str, Any]:
        """What to send."""

    @abc.abstractmethod
    def _reader(self, request: PlannedRequest) -> Reader:
        """For the answer to it."""

    async def ask(self, path: str) -> dict[str, Any] | None:
        """A JSON object from the server; None where it has no such thing. Raises TargetError."""
        timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
        with self._errors():
            async with self._session.get(self._url + path, timeout=timeout) as response:
                if response.status == 404:
                    return None
                if response.status != 200:
                    raise await _refusal(response)
                with contextlib.suppress(ValueError):
                    found = await response.json(content_type=None)
                    return found if isinstance(found, dict) else None
        return None

    async def stream(self, request: PlannedRequest) -> AsyncGenerator[Output | Ended, None]:
        """See Target."""
        seconds = self._timeout if request.deadline is None else request.deadline
        reader = self._reader(request)
        with self._errors():
            async with self._session.post(
                self._url + self.path,
                json=self._body(request),
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as response:
                if response.status != 200:
                    raise await _refusal(response)
                async for line in response.content:
                    event = _event(line)
                    if event is not None and (output := reader.take(event)) is not None:
                        yield output
        yield reader.ended()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """What goes wrong on the way, as a TargetError."""
        try:
            yield
        except asyncio.TimeoutError as error:
            raise TargetError(DEADLINE_EXCEEDED, f"{self._url}: the time was over") from error
        except aiohttp.ClientError as error:
            raise TargetError(UNAVAILABLE, f"{self._url}: {error}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()


def _event(line: bytes) -> Event | None:
    """What a line holds; None where that is nothing. Raises TargetError for an error."""
    if line.startswith(ERROR):
        raise _error(line[len(ERROR) :])
    if not line.startswith(DATA):
        return None
    data = line[len(DATA) :].strip()
    if data == DONE:
        return None
    event: Event = json.loads(data)
    if "error" in event:
        raise _error(data)
    return event


def _error(text: bytes) -> TargetError:
    """Of an error within a stream."""
    status, message = _message(text)
    return TargetError(CODES.get(status, "UNKNOWN"), message)


async def _refusal(response: aiohttp.ClientResponse) -> TargetError:
    _, message = _message(await response.read())
    wait = response.headers.get("Retry-After", "")
    return TargetError(
        CODES.get(response.status, "UNKNOWN"),
        f"HTTP {response.status}: {message}",
        retry_after=float(wait) if wait.isdigit() else None,
    )


def _message(text: bytes) -> tuple[int, str]:
    """The status and the message of `{"error": {"code": ..., "message": ...}}`, or of any text."""
    shown = text.decode(errors="replace").strip()
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        error = found.get("error", found) if isinstance(found, dict) else found
        if isinstance(error, dict):
            code = error.get("code")
            return code if isinstance(code, int) else 0, str(error.get("message", shown))
    return 0, shown
