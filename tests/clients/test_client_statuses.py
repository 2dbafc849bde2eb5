from __future__ import annotations

import pickle
from types import SimpleNamespace

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from llm_serving_engine.clients import errors
from llm_serving_engine.clients.statuses import error_from

Code = grpc.StatusCode


def failed(code, *details, message="no", trailers=(), inner_code=None):
    """A call that failed, as grpc shows it."""
    metadata = list(trailers)
    if details:
        status = status_pb2.Status(code=(inner_code or code).value[0], message=message)
        for detail in details:
            wrapped = any_pb2.Any()
            wrapped.Pack(detail)
            status.details.append(wrapped)
        metadata.append(("grpc-status-details-bin", status.SerializeToString()))
    return SimpleNamespace(
        code=lambda: code, details=lambda: message, trailing_metadata=lambda: tuple(metadata)
    )


RETRY = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2, nanos=500_000_000))


def info(reason, **metadata):
    return error_details_pb2.ErrorInfo(reason=reason, metadata=metadata)


@pytest.mark.parametrize(
    ("call", "kind", "attributes"),
    [
        (
            failed(
                Code.INVALID_ARGUMENT,
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(field="sampling.top_p")
                    ]
                ),
            ),
            errors.InvalidArgument,
            {"field": "sampling.top_p"},
        ),
        (failed(Code.INVALID_ARGUMENT), errors.InvalidArgument, {"field": ""}),
        (
            failed(Code.NOT_FOUND, info("UNKNOWN_MODEL", models="a, b")),
            errors.ModelNotFound,
            {"known": ("a", "b"), "reason": "UNKNOWN_MODEL"},
        ),
        (failed(Code.NOT_FOUND, info("UNKNOWN_MODEL")), errors.ModelNotFound, {"known": ()}),
        (
            failed(
                Code.RESOURCE_EXHAUSTED,
                error_details_pb2.QuotaFailure(
                    violations=[error_details_pb2.QuotaFailure.Violation(subject="queue.requests")]
                ),
                RETRY,
            ),
            errors.ResourceExhausted,
            {"subject": "queue.requests", "retry_after": 2.5},
        ),
        (
            failed(Code.RESOURCE_EXHAUSTED, trailers=[("grpc-retry-pushback-ms", "750")]),
            errors.ResourceExhausted,
            {"subject": "", "retry_after": 0.75},
        ),
        (
            failed(Code.RESOURCE_EXHAUSTED, trailers=[("grpc-retry-pushback-ms", "-1")]),
            errors.ResourceExhausted,
            {"retry_after": None},
        ),
        (
            failed(Code.DEADLINE_EXCEEDED, info("QUEUE_TIMEOUT")),
            errors.DeadlineExceeded,
            {"reason": "QUEUE_TIMEOUT"},
        ),
        (
            failed(Code.DEADLINE_EXCEEDED, info("DEADLINE_UNREACHABLE"), RETRY),
            errors.DeadlineExceeded,
            {"reason": "DEADLINE_UNREACHABLE", "retry_after": 2.5},
        ),
        (
            failed(Code.DEADLINE_EXCEEDED),
            errors.DeadlineExceeded,
            {"reason": "", "retry_after": None},
        ),
        (failed(Code.UNAVAILABLE, RETRY), errors.Unavailable, {"retry_after": 2.5}),
        (
            failed(Code.UNAVAILABLE, info("RUNNER_FAILED")),
            errors.RunnerFailed,
            {"retry_after": None},
        ),
        (failed(Code.UNAVAILABLE), errors.ConnectionFailed, {"retry_after": None}),
        (failed(Code.CANCELLED), errors.RequestCancelled, {}),
        (failed(Code.UNAUTHENTICATED, info("NO_TOKEN")), errors.Unauthenticated, {}),
        (failed(Code.PERMISSION_DENIED), errors.PermissionDenied, {}),
        (failed(Code.INTERNAL), errors.ServerError, {}),
        (failed(Code.UNIMPLEMENTED), errors.ServerError, {"code": "UNIMPLEMENTED"}),
    ],
)
def test_each_status_becomes_its_error(call, kind, attributes):
    error = error_from(call)
    assert type(error) is kind
    assert str(error) == "no"
    assert error.code == attributes.pop("code", call.code().name)
    assert {name: getattr(error, name) for name in attributes} == attributes


@pytest.mark.parametrize(
    "call",
    [
        failed(Code.INVALID_ARGUMENT, trailers=[("grpc-status-details-bin", b"\xff\xff")]),
        failed(Code.INVALID_ARGUMENT, RETRY, inner_code=Code.UNAVAILABLE),
    ],
    ids=["unreadable", "of another code"],
)
def test_details_that_make_no_sense_are_left_aside(call):
    error = error_from(call)
    assert type(error) is errors.InvalidArgument
    assert error.field == ""


def test_a_status_without_trailers_or_message():
    call = SimpleNamespace(
        code=lambda: Code.UNKNOWN, details=lambda: None, trailing_metadata=lambda: None
    )
    assert str(error_from(call)) == "no message"  # type: ignore[arg-type]


def test_errors_survive_a_process_boundary():
    error = errors.ResourceExhausted("full", code="RESOURCE_EXHAUSTED", retry_after=1.5)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.code, copy.retry_after) == ("full", "RESOURCE_EXHAUSTED", 1.5)


def test_the_tree_in_the_docstring_names_every_error():
    kinds = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.ServingError)
    }
    drawn = {word for word in errors.__doc__.split() if word in kinds}
    assert drawn == kinds
