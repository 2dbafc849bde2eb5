"""The interface of the servers under load."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from llm_serving_engine.clients.bench.plan import PlannedRequest
from llm_serving_engine.clients.bench.record import PromptTokens

if TYPE_CHECKING:
    from typing_extensions import Self


class Output(NamedTuple):
    """What one arrival brings; `token_ids` are empty where the server does not tell them."""

    tokens: int
    text: str = ""
    token_ids: tuple[int, ...] = ()


class Ended(NamedTuple):
    """What the server says at the end: the prompt's tokens, and how many it put out."""

    prompt_tokens: PromptTokens | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A server's own description.

    Attributes:
        address: Where it was reached.
        kind: Such as "llm-serving-engine".
        protocol: Such as "gRPC".
        version: Empty where it does not tell.
        model: The model's name.
        weights: How they are stored, such as "Q4_0"; empty where it does not tell.
        slots: Requests that it runs at the same time; None where it does not tell.
        context: Tokens of context of one request; None where it does not tell.
        details: Whatever else it says that matters.
    """

    address: str
    kind: str
    protocol: str
    version: str = ""
    model: str = ""
    weights: str = ""
    slots: int | None = None
    context: int | None = None
    details: dict[str, Any] | None = None


class TargetError(Exception):
    """A request failed.

    Attributes:
        code: What failures are counted by: the name of a gRPC code.
        reason: The server's word for the cause; empty where it gave none.
        retry_after: Seconds after which the server wants to be asked again; None where it
            named no time.
    """

    def __init__(
        self, code: str, message: str, *, reason: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.retry_after = retry_after


class Target(Protocol):
    """A server that streams.

    Attributes:
        salted: Whether `cache_salt` keeps requests apart. Where it does not, the prompts of
            each run must differ from those of the runs before.
    """

    salted: bool

    async def describe(self) -> ServerFacts:
        """Ask the server what it is. To be called before `stream`. Raises TargetError."""

    def stream(self, request: PlannedRequest) -> AsyncGenerator[Output | Ended, None]:
        """Generate exactly `request.max_tokens` tokens, or raise after `request.deadline`.

        Yields the output as it arrives and, at the end, the server's account of it.
        Closing the generator early ends the request. Raises TargetError.
        """


class OpenTarget(Target, Protocol):
    """A target that holds connections, to be used in an `async with` block."""

    async def __aenter__(self) -> Self:
        """Nothing is sent yet."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
