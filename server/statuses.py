"""Errors as gRPC statuses: the code, the message, and google.rpc details."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from llm_serving_engine.scheduler.errors import (
    DeadlinePassed,
    InvalidField,
    LimitReached,
    RequestError,
    RunnerFailed,
    Unavailable,
    UnknownModel,
)

DOMAIN = "llm-serving-engine"
PUSHBACK_KEY = "grpc-retry-pushback-ms"


def to_status(error: RequestError) -> grpc.Status:
    """What a caller is told of an error; see the table in README.md."""
    message = status_pb2.Status(
        code=code_pb2.Code.Value(error.code), message=str(error), details=_packed(_details(error))
    )
    status = rpc_status.to_status(message)
    if isinstance(error, LimitReached):
        milliseconds = str(math.ceil(error.retry_after * 1000))
        status = _with_trailer(status, PUSHBACK_KEY, milliseconds)
    return status


def internal_status() -> grpc.Status:
    """What a caller is told of a bug: nothing but that it was one."""
    return rpc_status.to_status(
        status_pb2.Status(code=code_pb2.INTERNAL, message="the server failed; its log says why")
    )


async def abort(context: grpc.aio.ServicerContext[Any, Any], status: grpc.Status) -> None:
    """End an RPC with a status. Always raises."""
    await context.abort(status.code, status.details, status.trailing_metadata)


def _details(error: RequestError) -> Iterator[Message]:
    if isinstance(error, InvalidField):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.description
        )
        yield error_details_pb2.BadRequest(field_violations=[violation])
    elif isinstance(error, UnknownModel):
        yield _error_info("UNKNOWN_MODEL", models=",".join(error.known))
    elif isinstance(error, LimitReached):
        yield _retry_info(error.retry_after)
        limit = error_details_pb2.QuotaFailure.Violation(
            subject=error.subject, description=str(error)
        )
        yield error_details_pb2.QuotaFailure(violations=[limit])
    elif isinstance(error, DeadlinePassed):
        yield _error_info(error.reason)
    elif isinstance(error, Unavailable):
        yield _retry_info(error.retry_after)
        if isinstance(error, RunnerFailed):
            yield _error_info("RUNNER_FAILED")


def _error_info(reason: str, **metadata: str) -> Message:
    info: Message = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    return info


def _retry_info(seconds: float) -> Message:
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(math.ceil(seconds * 1e9))
    info: Message = error_details_pb2.RetryInfo(retry_delay=delay)
    return info


def _packed(details: Iterator[Message]) -> Iterator[any_pb2.Any]:
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        yield packed


def _with_trailer(status: grpc.Status, key: str, value: str) -> grpc.Status:
    status.trailing_metadata = (*status.trailing_metadata, (key, value))
    return status
