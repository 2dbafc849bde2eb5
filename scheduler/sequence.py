"""A request and how far it has come."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import NamedTuple

from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.scheduler.lifecycle import Event, State, next_state
from llm_serving_engine.scheduler.request import FinishReason, Request


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of state, at a time in seconds of the engine's clock."""

    state: State
    at: float


class SavedCache(NamedTuple):
    """A cache that was saved to the runner's memory: its key there, and its length."""

    key: int
    tokens: int


@dataclass(slots=True, eq=False)
class Sequence:
    """What the scheduler knows of one request. Only the scheduler changes it.

    Attributes:
        request: What was asked.
        history: The states it has been in, oldest first; the last is the one
            it is in. The first is WAITING, at the request's arrival.
        output: Token ids produced so far.
        slot: Where its cache is, while it runs.
        computed: How many of its tokens (prompt, then output) are in the cache,
            steps under way included.
        cached_prompt_tokens: Prompt tokens that the first admission found in
            the cache.
        first_token_at: When its first token came, over all its runs.
        last_token_at: When its newest token came.
        finish_reason: Set when it is FINISHED.
        error: Set when it is CANCELLED, EXPIRED, or FAILED.
        preemptions: How often its slot was taken.
        runner_losses: How many of those times its runner had died.
        output_on_admission: Tokens it had produced when it last got a slot.
        saved: Where its cache is, while it waits after a preemption.
        sharing: Whether it waits to copy what it begins with from another slot.
        donor: The sequence that is still computing that, if any.
        shared: How many tokens it will take from the donor.
        begun: Whether the computing of its prompt has begun, for the first time.
    """

    request: Request
    history: list[Transition]
    output: list[int] = field(default_factory=list)
    slot: int | None = None
    computed: int = 0
    cached_prompt_tokens: int = 0
    first_token_at: float | None = None
    last_token_at: float | None = None
    finish_reason: FinishReason | None = None
    error: RequestError | None = None
    preemptions: int = 0
    runner_losses: int = 0
    output_on_admission: int = 0
    saved: SavedCache | None = None
    sharing: bool = False
    donor: Sequence | None = None
    shared: int = 0
    begun: bool = False

    @property
    def state(self) -> State:
        """The state it is in."""
        return self.history[-1].state

    @property
    def arrived_at(self) -> float:
        """When it was submitted."""
        return self.history[0].at

    def advance(self, event: Event, now: float) -> None:
        """Take the transition that `event` asks for. Raises IllegalTransition."""
        self.history.append(Transition(next_state(self.state, event), now))

    def seconds_in(self, state: State) -> float:
        """Seconds spent in `state`, all visits added up; a visit under way counts as 0."""
        visits = itertools.pairwise(self.history)
        return sum(after.at - before.at for before, after in visits if before.state is state)

    @property
    def known_tokens(self) -> int:
        """Tokens whose values are known: the prompt's and the output's."""
        return len(self.request.prompt) + len(self.output)

    def token(self, position: int) -> int:
        """The token at a position of prompt and output, one after the other."""
        prompt = self.request.prompt
        return prompt[position] if position < len(prompt) else self.output[position - len(prompt)]

    def tokens(self, start: int, stop: int) -> tuple[int, ...]:
        """The tokens from `start` up to `stop`."""
        prompt = self.request.prompt
        if stop <= len(prompt):
            return prompt[start:stop]
        begin = max(start - len(prompt), 0)
        return prompt[start:] + tuple(self.output[begin : stop - len(prompt)])
