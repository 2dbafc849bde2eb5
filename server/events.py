"""The events of a generation: `Started`, any number of `Delta`, `Finished`.

A generation that fails raises a `RequestError` in place of the next event.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llm_serving_engine.scheduler.request import FinishReason


class Started(NamedTuple):
    """The request left the queue, and the cached part of its prompt is known."""

    request_id: str
    model: str
    prompt_tokens: int
    cached_prompt_tokens: int


class TokenLogprob(NamedTuple):
    """A token, the bytes that it stands for, and its log-probability."""

    token: int
    name: bytes
    logprob: float


class PositionLogprobs(NamedTuple):
    """The chosen token of one position, and the most likely ones, most likely first."""

    chosen: TokenLogprob
    top: Sequence[TokenLogprob]


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of a tool call. The first delta of a call has its id and name."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Delta(NamedTuple):
    """More output.

    Attributes:
        text: To append to the text; valid by itself, and may be empty.
        tokens: The tokens behind it.
        logprobs: One entry for each token, where the request asked for them.
        reasoning: To append to the reasoning.
        tool_calls: More of the tool calls.
    """

    text: str
    tokens: Sequence[int] = ()
    logprobs: Sequence[PositionLogprobs] = ()
    reasoning: str = ""
    tool_calls: Sequence[ToolCallDelta] = ()


class Usage(NamedTuple):
    """Tokens consumed.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        cached_prompt_tokens: How many of those were found in the cache.
        completion_tokens: Tokens of the output.
        reasoning_tokens: How many of those are reasoning.
    """

    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0


class Timings(NamedTuple):
    """A request's times in seconds; `time_to_first_token` is None without a token."""

    queue: float
    prefill: float
    decode: float
    time_to_first_token: float | None


class Finished(NamedTuple):
    """The output is complete."""

    finish_reason: FinishReason
    usage: Usage
    timings: Timings


Event = Started | Delta | Finished


@dataclass(frozen=True, slots=True)
class Answer:
    """All events of a generation as one answer."""

    started: Started
    deltas: Sequence[Delta]
    finished: Finished

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(delta.text for delta in self.deltas)

    @property
    def reasoning(self) -> str:
        """The whole reasoning."""
        return "".join(delta.reasoning for delta in self.deltas)

    @property
    def tokens(self) -> list[int]:
        """All tokens."""
        return [token for delta in self.deltas for token in delta.tokens]

    @property
    def logprobs(self) -> list[PositionLogprobs]:
        """The log-probabilities of all tokens, if requested."""
        return [position for delta in self.deltas for position in delta.logprobs]
