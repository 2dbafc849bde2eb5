"""A request and how far it has come."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import NamedTuple

from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.scheduler.lifecycle import TRANSITIONS, Event, State, following
from llm_serving_engine.scheduler.request import FinishReason, Request
from llm_serving_engine.scheduler.step import Open


class Transition(NamedTuple):
    """A change of state, at a time in seconds of the engine's clock, and its reason."""

    state: State
    at: float
    event: Event = Event.SUBMIT


@dataclass(slots=True, eq=False)
class Sequence:
    """What the scheduler knows of one request. Each field has one writer.

    Attributes:
        request: What was asked.
        key: Its number in the engine and in the runner; never used twice.
        history: The states it has been in, oldest first. Written by `advance`.
        output: Tokens so far. Written by `Scheduler.apply`; `finish` cuts it once.
        slot: Where its cache is, while it runs. Written by `Cache`.
        cached_prompt_tokens: Prompt tokens that were in the cache when its
            computing began; None before. Written when its first run is planned.
        first_token_at: When its first token came. Written by `apply`.
        last_token_at: When its newest token came. Written by `apply`.
        charged: Prompt tokens that its tenant was charged for. Written when it first gets a slot.
        computed: Tokens of it that were in a slot at once, at most. Written by `Cache`.
        cache_losses: How often its cache could not be copied or restored.
        protected_until: It cannot lose its slot before it has so many tokens.
            Written when it gets a slot.
        stop_token: The token that ended it, which is no output. Written by `apply`.
        finish_reason: Set when it is FINISHED.
        error: Set when it is CANCELLED, EXPIRED, or FAILED.
    """

    request: Request
    key: int
    history: list[Transition]
    output: list[int] = field(default_factory=list)
    slot: int | None = None
    cached_prompt_tokens: int | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    charged: int = 0
    computed: int = 0
    cache_losses: int = 0
    protected_until: int = 0
    stop_token: int | None = None
    finish_reason: FinishReason | None = None
    error: RequestError | None = None

    @property
    def state(self) -> State:
        """The state it is in."""
        return self.history[-1].state

    @property
    def arrived_at(self) -> float:
        """When it was submitted."""
        return self.history[0].at

    @property
    def since(self) -> float:
        """When it came into the state that it is in."""
        return self.history[-1].at

    @property
    def has_run(self) -> bool:
        """Whether it has had a slot, now or before."""
        return len(self.history) > 1

    def advance(self, event: Event, now: float) -> None:
        """Take the transition that `event` asks for. Raises IllegalTransition."""
        self.history.append(Transition(following(TRANSITIONS, self.state, event), now, event))

    def times(self, event: Event) -> int:
        """How often an event has happened to it."""
        return sum(transition.event is event for transition in self.history)

    def seconds_in(self, state: State) -> float:
        """Seconds spent in `state`, all visits added up; one that goes on counts as 0."""
        visits = itertools.pairwise(self.history)
        return sum(after.at - before.at for before, after in visits if before.state is state)

    @property
    def known_tokens(self) -> int:
        """Tokens whose values are known: the prompt's and the output's."""
        return len(self.request.prompt) + len(self.output)

    @property
    def expected_steps(self) -> float:
        """Steps that it is expected to go on for: half of what it may."""
        return (self.request.max_tokens - len(self.output)) / 2

    @property
    def owner(self) -> tuple[str, str]:
        """Tenant and salt: requests of one owner share prefixes."""
        return self.request.tenant, self.request.cache_salt

    def tokens(self, start: int, stop: int) -> tuple[int, ...]:
        """The tokens of prompt and output, one after the other, from `start` up to `stop`."""
        prompt = self.request.prompt
        if stop <= len(prompt):
            return prompt[start:stop]
        begin = max(start - len(prompt), 0)
        return prompt[start:] + tuple(self.output[begin : stop - len(prompt)])

    def opening(self) -> Open:
        """What a runner is told of it with its slot, so that sampling goes on where it was."""
        request = self.request
        return Open(
            self.key,
            request.sampling,
            request.stop_tokens,
            request.top_logprobs,
            request.prompt if request.sampling.penalised else (),
            tuple(self.output),
            len(request.prompt),
        )
