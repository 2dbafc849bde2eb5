"""Structured logs: one line per request at its end, and lines for other events.

Lines go through the standard `logging`, as JSON or as text. They hold counts,
times, and outcomes, never prompt or output.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import datetime, timezone
from typing import Literal, TextIO

from llm_serving_engine.scheduler.errors import (
    Cancelled,
    DeadlinePassed,
    RequestError,
    RunnerFailed,
)
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.server.events import Finished
from llm_serving_engine.server.truncation import truncated

LogFormat = Literal["json", "text"]
Fields = dict[str, str | int | float]

_ROOT = "llm_serving_engine"
# Its exporter complains several times about every batch that it cannot send.
_THROTTLED = "opentelemetry"
_THROTTLE_SECONDS = 60.0
# The beginnings of lines that libraries log about callers, which could fill the log. gRPC:
# metadata that is not UTF-8, and disconnecting while the end of an answer is sent. uvicorn:
# malformed HTTP (the listener counts it, and limits its own log lines), and WebSockets.
_ABOUT_CALLERS = {
    "grpc._cython.cygrpc": ("Invalid encoding", "ExecuteBatchError raised in core"),
    "uvicorn.error": ("Invalid HTTP", "Unsupported upgrade", "No supported WebSocket"),
}

# The request succeeded, or failed by the caller's own doing.
_CALLERS_OWN = frozenset(
    {
        "OK",
        "CANCELLED",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "UNIMPLEMENTED",
    }
)
# The server is overloaded or unavailable. Every other code is a fault of this server.
_OVERLOADED = frozenset({"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAVAILABLE"})

_PLAIN = re.compile(r"[!#-~]+")

_logger = logging.getLogger(f"{_ROOT}.requests")


def configure(
    format: LogFormat = "text",  # noqa: A002 - the setting's name
    level: str = "info",
    stream: TextIO | None = None,
) -> None:
    """Send the lines of all loggers, also of libraries, to one handler.

    Args:
        format: "json" for one object per line, "text" for people.
        level: The least level of our own lines: debug, info, warning, error.
            Libraries show warnings and up in any case, and never more.
        stream: Where to; default stderr.

    Raises:
        ValueError: There is no such level.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    handler.addFilter(_Throttle(_THROTTLED, _THROTTLE_SECONDS))
    handler.addFilter(is_ours)
    own = logging.getLogger(_ROOT)
    own.setLevel(level.upper())
    root = logging.getLogger()
    root.setLevel(max(own.level, logging.WARNING))
    root.handlers = [handler]
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True


def is_ours(record: logging.LogRecord) -> bool:
    """Whether a record is of interest: not a library's line about a caller's behavior."""
    return not str(record.msg).startswith(_ABOUT_CALLERS.get(record.name, ()))


def log_request(
    *,
    rpc: str,
    status_code: str,
    request_id: str = "",
    trace_id: str = "",
    model: str = "",
    request: Request | None = None,
    sequence: Sequence | None = None,
    error: RequestError | None = None,
    finished: Finished | None = None,
) -> None:
    """Log a request that has ended.

    Args:
        rpc: `package.Service/Method`.
        status_code: The name of the gRPC status code that it was answered with.
        request_id: The id that the caller sees; default `request.id`.
        trace_id: Of its trace, empty where there is none.
        model: The model's name.
        request: The valid request; None if it was invalid.
        sequence: The scheduler's sequence; None if the request was never queued.
        error: The error behind the code, if it is one of the tree.
        finished: The caller's last event, if the output was complete.
    """
    if request is None and sequence is not None:
        request = sequence.request
    level = _level(status_code, error)
    if not _logger.isEnabledFor(level):
        return
    ended_as = outcome(sequence, status_code, error)
    fields: Fields = {
        "request_id": request_id or (request.id if request else ""),
        "trace_id": trace_id,
        "rpc": rpc,
        "model": model,
        "tenant": request.tenant if request else "",
        "priority": request.priority.name.lower() if request else "",
        "outcome": ended_as,
        "status_code": status_code,
        **(_progress(sequence, finished) if sequence else {}),
        "error": error.label if error else "",
        "error_message": truncated(str(error)) if error else "",
    }
    shown = {name: value for name, value in fields.items() if value != ""}
    _logger.log(level, "request %s", ended_as, extra={"fields": shown})


def outcome(sequence: Sequence | None, status_code: str, error: RequestError | None) -> str:
    """How a request ended, in the words of the metrics' label `outcome`."""
    if sequence is not None and sequence.state.ended:
        return sequence.state.value
    if status_code == "OK":
        return State.FINISHED.value
    if status_code == Cancelled.code:
        return State.CANCELLED.value
    if sequence is None and error is not None:
        return "refused"
    return State.EXPIRED.value if status_code == DeadlinePassed.code else State.FAILED.value


class JsonFormatter(logging.Formatter):
    """One JSON object per line, ASCII only."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class TextFormatter(logging.Formatter):
    """Time, level, message, and the fields as `name=value`; a value with blanks is quoted."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as a line, followed by its traceback, if any."""
        words = [_time(record), record.levelname.ljust(7), record.getMessage()]
        words += [f"{name}={_plain(value)}" for name, value in _fields(record).items()]
        line = " ".join(words)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _Throttle(logging.Filter):
    """Lets one record of a library through per `seconds`, and every record of others."""

    def __init__(self, library: str, seconds: float) -> None:
        super().__init__(library)
        self._seconds = seconds
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if not super().filter(record):  # not the library's
            return True
        if record.created < self._next:
            return False
        self._next = record.created + self._seconds
        return True


def _progress(sequence: Sequence, finished: Finished | None) -> Fields:
    # The scheduler can end a request before the service finds a stop sequence in its
    # last token. The caller's last event counts.
    completion = finished.usage.completion_tokens if finished else len(sequence.output)
    reason = finished.finish_reason if finished else sequence.finish_reason
    fields: Fields = {
        "prompt_tokens": len(sequence.request.prompt),
        "cached_prompt_tokens": sequence.cached_prompt_tokens or 0,
        "completion_tokens": completion,
        "queue_seconds": _rounded(sequence.seconds_in(State.WAITING)),
        "prefill_seconds": _rounded(sequence.seconds_in(State.PREFILL)),
        "decode_seconds": _rounded(sequence.seconds_in(State.DECODE)),
        "preemptions": sequence.times(Event.PREEMPT),
    }
    if sequence.first_token_at is not None:
        waited = sequence.first_token_at - sequence.arrived_at
        fields["time_to_first_token_seconds"] = _rounded(waited)
    if reason is not None:
        fields["finish_reason"] = reason.value
    return fields


def _level(status_code: str, error: RequestError | None) -> int:
    if status_code in _CALLERS_OWN:
        return logging.INFO
    overloaded = status_code in _OVERLOADED and not isinstance(error, RunnerFailed)
    return logging.WARNING if overloaded else logging.ERROR


def _fields(record: logging.LogRecord) -> Fields:
    fields: Fields = getattr(record, "fields", {})
    return fields


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, timezone.utc)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: str | int | float) -> str:
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return json.dumps(value)
    return str(value)


def _rounded(seconds: float) -> float:
    return round(seconds, 6)
