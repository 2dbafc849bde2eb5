"""The load generator's settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """The sizes of the workloads; each takes those that mean something to it.

    Attributes:
        clients: Numbers of clients to compare, each at least 1; empty for the workload's own.
        prompt_words: Words of a prompt.
        max_tokens: Tokens of an answer.
        rounds: How often each measurement is made.
        streams: Streams that run while something else happens.
        long_words: Words of the long prompt that comes in between.
        seed: Of the prompts, and of everything else that is drawn.
        prefix_words: Words that prompts have in common, where they share a prefix.
        idle_requests: Requests to an idle server, one at a time.
        seconds: How long the load is kept up where that is a time; None for the workload's own.
        requests: Requests to compare.
        ratio: How many times as many requests the greedier of two tenants sends.
        conversations: Side by side.
        turns: Of each conversation.
        rate: Requests a second that come in; None for twice what the server was measured to do.
        deadline: Seconds that an answer may take; None for the workload's own.
        slots: Requests that the server runs at the same time; not chosen, but asked of it.
    """

    clients: tuple[int, ...] = ()
    prompt_words: int = 64
    max_tokens: int = 64
    rounds: int = 3
    streams: int = 4
    long_words: int = 900
    seed: int = 1
    prefix_words: int = 600
    idle_requests: int = 40
    seconds: float | None = None
    requests: int = 200
    ratio: int = 10
    conversations: int = 8
    turns: int = 6
    rate: float | None = None
    deadline: float | None = None
    slots: int = 1
