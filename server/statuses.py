"""Turns errors into gRPC statuses: code, message, and google.rpc details."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from llm_serving_engine.scheduler.errors import InvalidField, LimitReached, RequestError
from llm_serving_engine.server.not_found import UnknownModel
from llm_serving_engine.server.retry_delay import with_jitter
from llm_serving_engine.server.service.errors import INTERNAL_MESSAGE
from llm_serving_engine.server.truncation import truncated

DOMAIN = "llm-serving-engine"
PUSHBACK_KEY = "grpc-retry-pushback-ms"


class Answer(NamedTuple):
    """How an RPC ends that fails: what `context.abort` takes."""

    code: grpc.StatusCode
    message: str
    trailers: tuple[tuple[str, str | bytes], ...]


def to_answer(error: RequestError) -> Answer:
    """Return a caller's answer to an error; see the table in README.md."""
    trailers: tuple[tuple[str, str], ...] = ()
    details = list(_details(error))
    if error.retry_after:
        # The same delay for people's code and for gRPC's own retries.
        seconds = with_jitter(error.retry_after)
        details.insert(0, _retry_info(seconds))
        trailers = ((PUSHBACK_KEY, str(math.ceil(seconds * 1000))),)
    code = code_pb2.Code.Value(error.code)
    return _answer(code, truncated(str(error)), details, trailers)


def internal_answer() -> Answer:
    """Return a caller's answer to a bug, without details."""
    return _answer(code_pb2.INTERNAL, INTERNAL_MESSAGE)


async def abort(context: grpc.aio.ServicerContext[Any, Any], answer: Answer) -> None:
    """End an RPC. Always raises."""
    await context.abort(*answer)


def _answer(
    code: int,
    message: str,
    details: Iterable[Message] = (),
    trailers: tuple[tuple[str, str], ...] = (),
) -> Answer:
    status = rpc_status.to_status(
        status_pb2.Status(code=code, message=message, details=map(_packed, details))
    )
    return Answer(status.code, message, (*status.trailing_metadata, *trailers))


def _details(error: RequestError) -> Iterator[Message]:
    if isinstance(error, InvalidField):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=truncated(error.description)
        )
        yield error_details_pb2.BadRequest(field_violations=[violation])
    elif isinstance(error, LimitReached):
        limit = error_details_pb2.QuotaFailure.Violation(
            subject=error.subject, description=truncated(str(error))
        )
        yield error_details_pb2.QuotaFailure(violations=[limit])
    if error.reason:
        metadata = {"models": ",".join(error.known)} if isinstance(error, UnknownModel) else {}
        yield error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)


def _retry_info(seconds: float) -> Message:
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(math.ceil(seconds * 1e9))
    info: Message = error_details_pb2.RetryInfo(retry_delay=delay)
    return info


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
