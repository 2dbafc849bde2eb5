"""The server's answers as plain values. All times are in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal[
    "unspecified", "end_of_sequence", "stop_sequence", "max_tokens", "context_length"
]
"""Why generation ended."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and how likely the model held it.

    Attributes:
        token_id: Its id in the vocabulary.
        token: Its bytes, not always valid UTF-8.
        logprob: Natural logarithm of its probability, at most 0.
    """

    token_id: int
    token: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """The chosen token at one position, and the most likely ones, most likely first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request consumed, in tokens; `reasoning_tokens` are among `completion_tokens`."""

    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the server's time went, in seconds.

    Attributes:
        queue: Waiting for a slot, all waits added up.
        prefill: From leaving the queue to the first token.
        decode: From the first token to the last.
        time_to_first_token: From the request's arrival to its first token.
    """

    queue: float
    prefill: float
    decode: float
    time_to_first_token: float


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole answer. `logprobs` has one entry per token where they were asked for.

    `reasoning` comes from chats with models that reason.
    """

    request_id: str
    model: str
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[PositionLogprobs, ...]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """A stream's first event: the request has left the queue."""

    request_id: str
    model: str
    prompt_tokens: int
    cached_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """More output: text and reasoning to append, which may be empty, and the tokens behind them."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[PositionLogprobs, ...]
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """A stream's last event."""

    finish_reason: FinishReason
    usage: Usage
    timings: Timings


Event = Started | Delta | Finished
"""What a stream is made of: Started, any number of Delta, Finished."""


@dataclass(frozen=True, slots=True)
class Tokenization:
    """The tokens of a text: their ids and, in the same order, their bytes."""

    model: str
    token_ids: tuple[int, ...]
    tokens: tuple[bytes, ...]
