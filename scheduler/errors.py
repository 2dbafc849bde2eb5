"""Every way that a request can be answered with an error.

    RequestError
    ├── InvalidField       INVALID_ARGUMENT    a field is out of range, missing, or unsupported
    ├── LimitReached       RESOURCE_EXHAUSTED  a queue, a quota, or a buffer is full
    ├── DeadlinePassed     DEADLINE_EXCEEDED   the answer would come, or came, too late
    ├── Unavailable        UNAVAILABLE         loading or draining: try again
    │   └── RunnerFailed   UNAVAILABLE         the runner failed and the request could not go on
    ├── RequestFailed      INTERNAL            the request itself cannot be computed: do not retry
    └── Cancelled          CANCELLED           the caller has gone

The server adds errors of what it does not have: `server/not_found.py`.
Each class owns its gRPC status code, by name, and the label under which it is
counted; transports derive what they tell beside it from its attributes.
Messages are for callers: what was wrong and what would be right, never a path
or an internal name.
"""

from __future__ import annotations

from typing import ClassVar


class RequestError(Exception):
    """The root. `str(error)` is the message for the caller.

    Attributes:
        code: The name of its gRPC status code.
        label: Under which it is counted.
        reason: For programs, where the code does not say enough; else empty.
        retry_after: Seconds after which to try again; None where that is not known.
    """

    code: ClassVar[str] = "INTERNAL"
    label: ClassVar[str] = "internal"
    reason: str = ""
    retry_after: float | None = None


class InvalidField(RequestError):
    """`field` (its wire name, dotted where nested) cannot be honoured."""

    code = "INVALID_ARGUMENT"
    label = "invalid_field"

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class LimitReached(RequestError):
    """A limit of the configuration is reached.

    Attributes:
        subject: What is limited, such as "queue.requests".
    """

    code = "RESOURCE_EXHAUSTED"
    label = "limit_reached"
    retry_after: float

    def __init__(self, subject: str, description: str, retry_after: float) -> None:
        super().__init__(description)
        self.subject = subject
        self.retry_after = retry_after


class DeadlinePassed(RequestError):
    """The deadline passed, or cannot be met.

    Attributes:
        reason: One of the class's constants.
        retry_after: Seconds after which the same request is expected to be in
            time; None where that is not known.
    """

    code = "DEADLINE_EXCEEDED"
    label = "deadline"

    QUEUE_TIMEOUT = "QUEUE_TIMEOUT"
    DEADLINE_UNREACHABLE = "DEADLINE_UNREACHABLE"
    RUNNING_TIMEOUT = "RUNNING_TIMEOUT"

    def __init__(self, reason: str, description: str, retry_after: float | None = None) -> None:
        super().__init__(description)
        self.reason = reason
        self.retry_after = retry_after


class Unavailable(RequestError):
    """Not now: the model is loading, or the server is draining."""

    code = "UNAVAILABLE"
    label = "unavailable"
    retry_after: float

    def __init__(self, description: str, retry_after: float = 1.0) -> None:
        super().__init__(description)
        self.retry_after = retry_after


class RunnerFailed(Unavailable):
    """The runner failed, and the request could not be resumed."""

    label = "runner_failed"
    reason = "RUNNER_FAILED"


class RequestFailed(RequestError):
    """The request itself cannot be computed, here or on any other server with this model.

    `reason` is one of the class's constants.
    """

    label = "request_failed"

    KILLS_RUNNER = "REQUEST_KILLS_RUNNER"
    LOGITS_NOT_FINITE = "LOGITS_NOT_FINITE"

    def __init__(self, reason: str, description: str) -> None:
        super().__init__(description)
        self.reason = reason


class Cancelled(RequestError):
    """The caller cancelled."""

    code = "CANCELLED"
    label = "cancelled"
