"""Limits HTTP/1.1 connections in time, in size, and in number.

uvicorn waits without end for a request that is half sent and for a reader that
has stopped, and takes headers of any size. This protocol bounds each of them.
Of several requests that a client sends ahead, uvicorn tells the last alone that
the client has gone; this protocol tells all of them. And it answers requests that
offer to go on with another protocol, whose bodies uvicorn drops.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import struct
import termios
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn._types import ASGI3Application, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from llm_serving_engine.scheduler.durations import duration
from llm_serving_engine.server.config import HttpConfig
from llm_serving_engine.server.refusals import (
    BODIES,
    BODY_TIMEOUT,
    CONNECTIONS,
    HEADER_SIZE,
    HEADER_TIMEOUT,
    MALFORMED,
    WRITE_TIMEOUT,
)

Refused = Callable[[str, int], None]


# What is being received.
NOTHING, HEADERS, BODY = "", "headers", "body"

# Bodies that are no longer are taken, however much of others is held.
SMALL_BODY_BYTES = 64 * 1024


class Bodies:
    """Counts the bytes of incomplete bodies over all connections.

    Attributes:
        total: In bytes.
    """

    def __init__(self) -> None:
        self.total = 0


class _Refusal(Exception):
    """Raised to refuse a request while it is parsed."""

    def __init__(self, reason: str, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.message = message


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. The application bounds the size of bodies.

    One timer runs at a time: from the connection or a request's first byte to
    the end of its headers, then to the end of its body. uvicorn's own timer
    covers the pause between two requests. None runs for a request that waits
    for the answer to one before it: it may be the server that does not read.
    """

    def __init__(
        self, *args: Any, limits: HttpConfig, refused: Refused, bodies: Bodies, **kwargs: Any
    ) -> None:
        """Serve a connection.

        Args:
            args: Of uvicorn's protocol.
            limits: Its limits.
            refused: Told of each refusal, with the reason and the status.
            bodies: Shared by all connections.
            kwargs: Of uvicorn's protocol, too.
        """
        super().__init__(*args, **kwargs)
        self._bodies = bodies
        self._body_bytes = 0
        self._waiting_bytes = 0
        self._limits = limits
        self._told_refused = refused
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._unread_before = 0
        self._refusal: _Refusal | None = None
        self._part = HEADERS
        self._header_bytes = 0
        self._bytes_beside_body = 0
        self._over = False
        # In order. The last may be the one that is being received.
        self._unanswered: deque[RequestResponseCycle] = deque()

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, or refuse it above the limit."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections_max:
            message = f"{self._limits.connections_max} connections are open, which is the limit"
            self._refuse(_Refusal(CONNECTIONS, HTTPStatus.SERVICE_UNAVAILABLE, message))
            return
        self._start_timer(self._limits.header_timeout_seconds, self._headers_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers, and release the bytes of bodies."""
        self._forget_body()
        self._bodies.total -= self._waiting_bytes
        self._waiting_bytes = 0
        self._stop_timer()
        self._stop_write_timer()
        for cycle in self._unanswered:
            cycle.disconnected = not cycle.response_complete
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes."""
        if self._over:
            return
        if self._part == BODY:
            self._bytes_beside_body += len(data)
        else:
            self._header_bytes += len(data)
        self._unset_keepalive_if_required()
        rest = memoryview(data)
        while rest and not self._over:
            rest = self._parse(rest)
        if not self._over:
            # Of a body in chunks: what is said of a chunk, and the headers behind the last one.
            beside = self._bytes_beside_body if self._part == BODY else 0
            self._check_header_bytes(max(self._header_bytes, beside))

    def _parse(self, data: memoryview) -> memoryview:
        """Parse bytes, and return those that are yet to be parsed."""
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stop:
                if self._offers_protocol():
                    self._parse_without_offer()
                    return data[stop.args[0] :]
        except httptools.HttpParserError:
            self.send_400_response("")
        return data[:0]

    def _offers_protocol(self) -> bool:
        """Whether the client offers to go on with another protocol, as Java's does by default.

        No other is served, so the offer is to be ignored. CONNECT demands it.
        """
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _parse_without_offer(self) -> None:
        """Parse the request's headers again without the offer.

        With it, the parser takes what comes after the headers for the other protocol.
        """
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % one for one in self.headers if one[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def pause_writing(self) -> None:
        """The reader is behind: it has `write_timeout_seconds` to read something."""
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        """The reader has caught up."""
        self._stop_write_timer()
        super().resume_writing()

    # The request

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._part = HEADERS
        self._time_part()

    def on_headers_complete(self) -> None:
        """The headers are complete: check their size."""
        # What came with the headers may be a part of the body: count the headers alone.
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        self._raise_if_header_too_large(size)
        if self._offers_protocol():
            return
        self._part, self._header_bytes, self._bytes_beside_body = BODY, 0, 0
        self._stop_timer()
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            self.cycle.send = _without_chunks(self.cycle)  # type: ignore[method-assign]
        self._unanswered.append(self.cycle)
        self._time_part()
        self._read_on()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._bytes_beside_body = 0
        self._body_bytes += len(body)
        self._bodies.total += len(body)
        limit = self._limits.bodies_bytes_max
        if self._waits():
            # It is not refused, which would end the answers before it.
            super().on_body(body)
            self._read_on()
            return
        if self._bodies.total > limit and self._body_bytes > SMALL_BODY_BYTES:
            message = f"bodies of {limit} bytes in all are on their way, which is the limit"
            self._refusal = _Refusal(BODIES, HTTPStatus.SERVICE_UNAVAILABLE, message)
            raise self._refusal
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete: stop its timers."""
        if self._offers_protocol():
            return
        if self._waits():
            self._waiting_bytes += self._body_bytes
            self._body_bytes = 0
        self._forget_body()
        self._stop_timer()
        self._part = NOTHING
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A request is answered: it is the turn of the next, whose time begins."""
        self._unanswered.popleft()
        super().on_response_complete()
        self._time_part()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Answer a request. A body that waited is one that has come completely."""
        if not cycle.more_body:
            self._waiting_bytes -= len(cycle.body)
            self._bodies.total -= len(cycle.body)
        super()._start_asgi_task(cycle, app)

    def _waits(self) -> bool:
        """Whether the request that is being received is behind one without an answer."""
        return len(self._unanswered) > (self._part == BODY)

    def _read_on(self) -> None:
        """Read on behind a request that waits.

        uvicorn stops there, and would not see the client go away.
        """
        limits = self._limits
        if (
            1 < len(self._unanswered) <= limits.pipelined_max
            and self._waiting_bytes + self._body_bytes <= limits.body_bytes_max
            and self._bodies.total <= limits.bodies_bytes_max
        ):
            self.flow.resume_reading()
        elif self._waits():
            self.flow.pause_reading()

    # Refusals

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that could not be parsed, or whose headers are too large."""
        refusal = self._refusal or _Refusal(MALFORMED, HTTPStatus.BAD_REQUEST, "not HTTP/1.1")
        self._refuse(refusal)

    def _refuse(self, refusal: _Refusal) -> None:
        """Respond with the refusal, unless it would be taken for another answer, and close."""
        self._over = True
        self._forget_body()
        self._stop_timer()
        self._told_refused(refusal.reason, refusal.status)
        begun = self._part == BODY and self.cycle.response_started
        if not (begun or self._waits()):
            body = refusal.message.encode() + b"\n"
            head = (
                f"HTTP/1.1 {refusal.status.value} {refusal.status.phrase}\r\n"
                "content-type: text/plain; charset=utf-8\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()

    def _check_header_bytes(self, size: int) -> None:
        try:
            self._raise_if_header_too_large(size)
        except _Refusal as refusal:
            self._refuse(refusal)

    def _raise_if_header_too_large(self, size: int) -> None:
        limit = self._limits.header_bytes_max
        if size > limit:
            message = f"the request's headers have {size} bytes or more; the limit is {limit}"
            self._refusal = _Refusal(
                HEADER_SIZE, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message
            )
            raise self._refusal

    def _forget_body(self) -> None:
        self._bodies.total -= self._body_bytes
        self._body_bytes = 0

    # Timers

    def _time_part(self) -> None:
        """Give what is being received its time, unless it has it already, or waits."""
        if self._timer is not None or self._waits() or self.transport.is_closing():
            return
        if self._part == HEADERS:
            self._start_timer(self._limits.header_timeout_seconds, self._headers_late)
        elif self._part == BODY:
            self._start_timer(self._limits.body_timeout_seconds, self._body_late)

    def _start_timer(self, seconds: float, late: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_write_timer(self) -> None:
        self._unread_before = self._unread_bytes()
        self._write_timer = self.loop.call_later(self._limits.write_timeout_seconds, self._unread)

    def _unread_bytes(self) -> int:
        """What is on its way to the client, as far as this machine knows."""
        size = self.transport.get_write_buffer_size()
        # The system takes more only when it has sent a third of its own buffer: of megabytes.
        with contextlib.suppress(OSError):
            size += _sent_ahead(self.transport.get_extra_info("socket").fileno())
        return size

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _headers_late(self) -> None:
        seconds = self._limits.header_timeout_seconds
        message = f"the request's headers did not come in {duration(seconds)}"
        self._refuse(_Refusal(HEADER_TIMEOUT, HTTPStatus.REQUEST_TIMEOUT, message))

    def _body_late(self) -> None:
        seconds = self._limits.body_timeout_seconds
        message = f"the request's body did not come in {duration(seconds)}"
        self._refuse(_Refusal(BODY_TIMEOUT, HTTPStatus.REQUEST_TIMEOUT, message))

    def _unread(self) -> None:
        if self._unread_bytes() < self._unread_before:
            # Nothing is written meanwhile: the client reads, however slowly.
            self._start_write_timer()
            return
        self._told_refused(WRITE_TIMEOUT, 0)
        # Not `close`, which waits until the reader has taken what is buffered.
        self.transport.abort()


def _without_chunks(cycle: RequestResponseCycle) -> Any:
    """Return how to answer a client of HTTP/1.0, which knows no chunks: the close ends a body."""
    send, measured = cycle.send, False

    async def send_plain(message: ASGISendEvent) -> None:
        nonlocal measured
        if message["type"] == "http.response.start":
            measured = any(
                name.lower() == b"content-length" for name, _ in message.get("headers", ())
            )
            if not measured:
                cycle.chunked_encoding = False
        elif message["type"] == "http.response.body" and not measured:
            # uvicorn takes no more than was announced, and no less in all.
            if not message.get("more_body", False):
                cycle.expected_content_length = 0
            cycle.expected_content_length += len(message.get("body", b""))
        await send(message)

    return send_plain


def _sent_ahead(descriptor: int) -> int:
    """The bytes in a socket's buffer that the other side has not acknowledged."""
    (size,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))
    return int(size)
