"""One HTTP request and its response."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Any, NoReturn

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from llm_serving_engine.scheduler.durations import duration
from llm_serving_engine.scheduler.errors import LimitReached
from llm_serving_engine.server.api.errors import BadBody, BodyTooLarge
from llm_serving_engine.server.config import HttpConfig
from llm_serving_engine.server.service.validation import REQUEST_ID_CHARACTERS_MAX
from llm_serving_engine.server.time_limit import TimeLimit

JSON = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"
KEEP_ALIVE = b": keep-alive\n\n"
# A slow reader may retry at once, but a retry delay of 0 cannot be sent.
RETRY_SECONDS = 1.0
REQUEST_ID_HEADER = "x-request-id"
# Any body below this size is parsed in a few milliseconds.
UNCOUNTED_BYTES_MAX = 256 * 1024
# Deeper ones cannot be walked by functions that call themselves, as the encoder of JSON does.
LEVELS_MAX = 100
# JSON escapes characters beyond 16 bits as two surrogates.
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class HttpExchange:
    """Reads a request and writes its response, in the task of the handler.

    When the client disconnects, the task is cancelled, in any state of the
    request, and `gone` is set.

    Attributes:
        headers: The request's headers.
        request_id: The caller's request id, or a new one.
        path: The request's path.
        path_parameters: The path's parameters.
        query: The query string.
        observed: Whether the service logs and counts the request.
        gone: Whether the client has disconnected.
        begun: Whether the response's status and headers are sent.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, config: HttpConfig) -> None:
        self.config = config
        self.headers = Headers(scope=scope)
        self.request_id = _request_id(self.headers.get(REQUEST_ID_HEADER, ""))
        self.path: str = scope["path"]
        self.path_parameters: dict[str, str] = scope.get("path_params", {})
        self.query: str = scope.get("query_string", b"").decode("latin-1")
        self.observed = False
        self.arrived_at = time.monotonic()
        self.gone = False
        self.begun = False
        self._extra_headers: list[tuple[str, str]] = []
        self._receive = receive
        self._send = send
        self._watcher: asyncio.Task[None] | None = None

    async def read(self) -> Any:
        """Read the body's JSON value. Raises BadBody or BodyTooLarge."""
        limit = self.config.body_bytes_max
        declared = self.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise BodyTooLarge(f"the body has {declared} bytes; the limit is {limit}")
        parts, size = [], 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                raise asyncio.CancelledError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise BodyTooLarge(f"the body has more than {limit} bytes, which is the limit")
            if not message.get("more_body", False):
                break
        body = b"".join(parts)
        coding = self.headers.get("content-encoding", "identity")
        if coding.lower() != "identity":
            raise BadBody(f"the body has the content-encoding {coding!r}; send it without one")
        # Counted before parsing, which would block all other requests.
        if len(body) > UNCOUNTED_BYTES_MAX:
            items, objects = body.count(b","), body.count(b"{") + body.count(b"[")
            self._check_count("items", items, self.config.body_items_max)
            self._check_count("objects and lists", objects, self.config.body_objects_max)
        return _value(body)

    def _check_count(self, what: str, count: int, limit: int) -> None:
        if count > limit:
            raise BodyTooLarge(f"the body has about {count} {what}; the limit is {limit}")

    def watch(self) -> None:
        """Cancel the running task when the client disconnects. Call after `read`."""
        task = asyncio.current_task()
        assert task is not None
        self._watcher = asyncio.create_task(self._watch(task))

    def add_header(self, name: str, value: str) -> None:
        """Add a header to the response, which may still become an error."""
        self._extra_headers.append((name, value))

    async def answer(
        self, content: Any, status: int = 200, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        """Send a JSON value as the whole response."""
        body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        length = ("content-length", str(len(body)))
        await self._start(status, JSON, (*headers, length))
        await self._send({"type": "http.response.body", "body": body})

    @contextlib.asynccontextmanager
    async def stream(
        self, keep_alive: Callable[[], bytes] = lambda: KEEP_ALIVE
    ) -> AsyncIterator[EventStream]:
        """Respond with server-sent events; the response ends with the block.

        Args:
            keep_alive: Makes the bytes to send after `keep_alive_seconds` of silence.
        """
        await self._start(
            200, EVENT_STREAM, (("cache-control", "no-cache"), ("x-accel-buffering", "no"))
        )
        async with EventStream(self._send, self.config, keep_alive) as stream:
            yield stream
        await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, event: bytes) -> None:
        """End a started stream with an error event."""
        await self._send({"type": "http.response.body", "body": event})

    def close(self) -> None:
        """Stop watching for the client's disconnection."""
        if self._watcher is not None:
            self._watcher.cancel()
            # Breaks a reference cycle: a cancelled task refers to its frame, and that to self.
            self._watcher = None

    async def _start(
        self, status: int, content_type: str, headers: Iterable[tuple[str, str]]
    ) -> None:
        self.begun = True
        pairs = (("content-type", content_type), *self._extra_headers, *headers)
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def _watch(self, task: asyncio.Task[Any]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        task.cancel()


def _request_id(wish: str) -> str:
    fits = len(wish) <= REQUEST_ID_CHARACTERS_MAX and wish.isascii() and wish.isprintable()
    return wish if wish and fits else secrets.token_hex(8)


def _value(body: bytes) -> Any:
    """Parse a body. Raises BadBody."""
    if not body.strip():
        raise BadBody("the body is empty; it must be a JSON object")
    try:
        # json.loads would guess the encoding of bytes, and accept lone surrogates.
        text = body.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise BadBody(f"the body is not UTF-8: see its byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise BadBody(f"the body is not valid JSON: {error}") from None
    except ValueError:
        # Python's limit of the digits of an integer.
        raise BadBody("the body has a number with too many digits") from None
    except RecursionError:
        raise _too_deep() from None
    if body.count(b"{") + body.count(b"[") > LEVELS_MAX:
        _check_levels(value)
    if _SURROGATE_ESCAPE.search(body):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])[1:-1]
            raise BadBody(f"the body has {half}, which is half of a character") from None
    return value


def _no_number(name: str) -> NoReturn:
    raise BadBody(f"the body has {name}, which is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise BadBody(f"the body has {text:.40}, which is too large for a number")
    return number


def _check_levels(value: Any) -> None:
    """Raise BadBody for what is nested too deeply."""
    level = [value]
    for _ in range(LEVELS_MAX):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> BadBody:
    return BadBody(f"the body has too many levels of lists and objects; the limit is {LEVELS_MAX}")


class EventStream:
    """Sends server-sent events to a client.

    After each `keep_alive_seconds` of silence it sends a keep-alive, so that no
    proxy between client and server takes the connection for dead.
    """

    def __init__(self, send: Send, config: HttpConfig, keep_alive: Callable[[], bytes]) -> None:
        self._send_message = send
        self._interval = config.keep_alive_seconds
        self._seconds = config.write_timeout_seconds
        self._limit: TimeLimit | None = None
        self._sent_at = time.monotonic()
        self._pinger: asyncio.Task[None] | None = None
        self._keep_alive = keep_alive

    async def send(self, data: bytes) -> None:
        """Send complete events. Raises LimitReached if the client does not read."""
        assert self._limit is not None
        self._sent_at = time.monotonic()
        await self._limit.hold(self._send_message(_more(data)))

    async def __aenter__(self) -> EventStream:
        self._limit = TimeLimit(self._seconds, self._unread)
        self._pinger = asyncio.create_task(self._ping())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        assert self._limit is not None
        assert self._pinger is not None
        self._limit.close()
        self._pinger.cancel()
        # Breaks reference cycles: both refer to this stream.
        self._limit = self._pinger = None

    async def _ping(self) -> None:
        while True:
            silent = time.monotonic() - self._sent_at
            if silent >= self._interval:
                self._sent_at = time.monotonic()
                await self._send_message(_more(self._keep_alive()))
                silent = 0.0
            await asyncio.sleep(self._interval - silent)

    def _unread(self) -> LimitReached:
        description = f"the stream was not read for {duration(self._seconds)}"
        return LimitReached("http.write_timeout_seconds", description, RETRY_SECONDS)


def _more(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}
