"""What the user of the load generator chooses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """The sizes of the workloads; each takes those that mean something to it.

    Attributes:
        clients: Numbers of clients to compare, each at least 1.
        prompt_words: Words of a prompt.
        max_tokens: Tokens of an answer.
        rounds: How often each measurement is made.
        streams: Streams that run while something else happens.
        long_words: Words of the long prompt that comes in between.
        seed: Of the prompts.
    """

    clients: tuple[int, ...] = (1, 4, 16)
    prompt_words: int = 64
    max_tokens: int = 64
    rounds: int = 3
    streams: int = 4
    long_words: int = 900
    seed: int = 1
