"""Turns a gRPC status and its google.rpc details into one of our errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from llm_serving_engine.clients import errors

PUSHBACK_KEY = "grpc-retry-pushback-ms"
RUNNER_FAILED = "RUNNER_FAILED"
MODELS_KEY = "models"
# What gRPC says where the deadline passed on this side.
GRPC_DEADLINE = "Deadline Exceeded"

_Detail = TypeVar("_Detail", bound=Message)


def error_from(call: grpc.RpcError) -> errors.ServingError:
    """The typed error of a call that failed; never raises."""
    code, message = call.code(), call.details() or "no message"
    details = _Details(call)
    name, reason = code.name, details.info.reason
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return errors.InvalidArgument(message, code=name, reason=reason, field=details.field)
    if code is grpc.StatusCode.NOT_FOUND:
        return errors.ModelNotFound(message, code=name, reason=reason, known=details.known)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        full = errors.ResourceExhausted(
            message,
            code=name,
            reason=reason,
            retry_after=details.retry_after,
            subject=details.subject,
        )
        full.retry_never = details.retry_never
        return full
    if code is grpc.StatusCode.UNAVAILABLE:
        kind = _unavailable(details)
        unavailable = kind(message, code=name, reason=reason, retry_after=details.retry_after)
        unavailable.retry_never = details.retry_never
        return unavailable
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        if message == GRPC_DEADLINE:
            message = "the deadline passed before the answer arrived"
        late = errors.DeadlineExceeded(message, code=name, reason=reason)
        late.retry_after = details.retry_after
        return late
    return _PLAIN.get(code, errors.ServerError)(message, code=name, reason=reason)


_PLAIN: dict[grpc.StatusCode, type[errors.ServingError]] = {
    grpc.StatusCode.CANCELLED: errors.RequestCancelled,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
}


def _unavailable(details: _Details) -> type[errors.Unavailable]:
    """Our server explains every UNAVAILABLE of its own: one without details came from below."""
    if details.info.reason == RUNNER_FAILED:
        return errors.RunnerFailed
    if details.explained:
        return errors.Unavailable
    return errors.ConnectionFailed


class _Details:
    """The google.rpc details of a status; empty ones where there are none."""

    def __init__(self, call: grpc.RpcError) -> None:
        self._status = _status(call)
        self._call = call
        self.info = self._first(error_details_pb2.ErrorInfo)

    @property
    def explained(self) -> bool:
        """Whether the server sent any details."""
        return bool(self._status.details)

    @property
    def field(self) -> str:
        """The first wrong field."""
        violations = self._first(error_details_pb2.BadRequest).field_violations
        return violations[0].field if violations else ""

    @property
    def subject(self) -> str:
        """What is full."""
        violations = self._first(error_details_pb2.QuotaFailure).violations
        return violations[0].subject if violations else ""

    @property
    def known(self) -> tuple[str, ...]:
        """The models there are."""
        names = self.info.metadata.get(MODELS_KEY, "")
        return tuple(name.strip() for name in names.split(",") if name.strip())

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait, from the details or else from the trailer that gRPC's retries read."""
        retry = self._first(error_details_pb2.RetryInfo)
        if retry.HasField("retry_delay"):
            return float(retry.retry_delay.ToTimedelta().total_seconds())
        milliseconds = _pushback(self._call)
        return None if milliseconds is None or milliseconds < 0 else milliseconds / 1000

    @property
    def retry_never(self) -> bool:
        """Whether the trailer says that no retry is wanted."""
        return (_pushback(self._call) or 0) < 0

    def _first(self, kind: type[_Detail]) -> _Detail:
        found = kind()
        for detail in self._status.details:
            if detail.Is(kind.DESCRIPTOR):
                detail.Unpack(found)
                break
        return found


def _pushback(call: grpc.RpcError) -> int | None:
    """The trailer that gRPC's own retries read, in milliseconds; below 0 for never."""
    trailers: Iterable[Any] = call.trailing_metadata() or ()
    for key, value in trailers:
        if key == PUSHBACK_KEY:
            try:
                return int(value)
            except ValueError:
                return None
    return None


def _status(call: grpc.RpcError) -> status_pb2.Status:
    """The rich status, or an empty one where it is missing, unreadable, or of another error."""
    try:
        return rpc_status.from_call(cast(grpc.Call, call)) or status_pb2.Status()
    except (ValueError, DecodeError):
        return status_pb2.Status()
