"""Everything that a call can fail with.

    ServingError
    ├── InvalidArgument          INVALID_ARGUMENT    .field: what is wrong in the request
    ├── ModelNotFound            NOT_FOUND           .known: the models there are
    ├── DeadlineExceeded         DEADLINE_EXCEEDED   .reason: where the time went
    ├── RetryableError                               .retry_after: seconds
    │   ├── ResourceExhausted    RESOURCE_EXHAUSTED  .subject: what is full
    │   └── Unavailable          UNAVAILABLE         loading or draining
    │       ├── RunnerFailed     UNAVAILABLE         the runner died under the request
    │       └── ConnectionFailed UNAVAILABLE         no server answered, or it went away
    ├── RequestCancelled         CANCELLED           by the server or a proxy, not this side
    ├── Unauthenticated          UNAUTHENTICATED     .reason
    ├── PermissionDenied         PERMISSION_DENIED   .reason
    └── ServerError              any other           a bug, or not one of our servers

`statuses.error_from` makes them from a gRPC status and its google.rpc details.
"""

from __future__ import annotations


class ServingError(Exception):
    """The root. `str(error)` says what was wrong and what would be right.

    Attributes:
        code: The gRPC status code's name, such as "INVALID_ARGUMENT".
        reason: The server's word for the cause, such as "QUEUE_TIMEOUT"; empty
            where it gave none.
    """

    def __init__(self, message: str, *, code: str = "UNKNOWN", reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class InvalidArgument(ServingError):
    """The request cannot be honoured as it is.

    Attributes:
        field: The first wrong field's name on the wire, such as
            "sampling.top_p"; empty where the server named none.
    """

    def __init__(
        self, message: str, *, code: str = "UNKNOWN", reason: str = "", field: str = ""
    ) -> None:
        super().__init__(message, code=code, reason=reason)
        self.field = field


class ModelNotFound(ServingError):
    """The server has no model of that name.

    Attributes:
        known: The names it has.
    """

    def __init__(
        self, message: str, *, code: str = "UNKNOWN", reason: str = "", known: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message, code=code, reason=reason)
        self.known = known


class RetryableError(ServingError):
    """The same request may succeed later.

    Attributes:
        retry_after: Seconds after which the server wants to be asked again;
            None where it named no time.
        retry_never: Whether the server wants not to be asked again.
    """

    retry_never = False

    def __init__(
        self,
        message: str,
        *,
        code: str = "UNKNOWN",
        reason: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, reason=reason)
        self.retry_after = retry_after


class ResourceExhausted(RetryableError):
    """A queue is full or a quota is spent.

    Attributes:
        subject: What is full, such as "queue.requests"; empty where unnamed.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "UNKNOWN",
        reason: str = "",
        retry_after: float | None = None,
        subject: str = "",
    ) -> None:
        super().__init__(message, code=code, reason=reason, retry_after=retry_after)
        self.subject = subject


class DeadlineExceeded(ServingError):
    """The time was over before the answer was.

    `reason` is "QUEUE_TIMEOUT" or "DEADLINE_UNREACHABLE" where the server said
    so, and empty where this side stopped waiting.

    Attributes:
        retry_after: Seconds after which the server expects to be in time; None where
            it named no time. The client does not wait for it by itself.
    """

    retry_after: float | None = None


class Unavailable(RetryableError):
    """Not now: the model is loading, or the server is draining."""


class RunnerFailed(Unavailable):
    """The model's runner died, and the request could not go on."""


class ConnectionFailed(Unavailable):
    """No server answered at the address, or the connection broke."""


class RequestCancelled(ServingError):
    """The request was cancelled, here, by the server, or by a proxy between them."""


class Unauthenticated(ServingError):
    """The credentials are missing or wrong."""


class PermissionDenied(ServingError):
    """The caller may not do this."""


class ServerError(ServingError):
    """The server failed in a way that it should not, or is not one of ours."""
