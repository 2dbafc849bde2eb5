"""The record of one request from arrival to end, without its text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.request import FinishReason, Priority


@dataclass(slots=True)
class Stage:
    """An entry of the request into a state.

    Attributes:
        state: The state.
        event: The event that caused the transition.
        at: The time, in seconds of the engine's clock.
        output_tokens: Tokens that the request had produced before.
        slot: Its slot; None while it waited.
        taken_by: After a preemption, the request that took its slot.
        restored_at: When its saved or copied cache was in the slot; None without such a cache.
        restored_tokens: The tokens of that cache.
        copied: Whether the cache was copied from another request.
    """

    state: State
    event: Event
    at: float
    output_tokens: int = 0
    slot: int | None = None
    taken_by: RequestRecord | None = None
    restored_at: float | None = None
    restored_tokens: int = 0
    copied: bool = False


class Visit(NamedTuple):
    """A stay in a state.

    Attributes:
        stage: The state, and its cause.
        seconds: The duration.
        tokens: Tokens produced during the stay.
        lasts: Whether the request is still in this state.
    """

    stage: Stage
    seconds: float
    tokens: int
    lasts: bool


class Ahead(NamedTuple):
    """The queue and the slots at a request's arrival.

    Attributes:
        higher: Waiting requests of higher classes.
        same: Those of its own class.
        own_tenant: Those of its own tenant, in any class.
        tenants: Tenants with waiting requests, its own included.
        slots: Slots of the model.
        held: Slots in use.
    """

    higher: int = 0
    same: int = 0
    own_tenant: int = 0
    tenants: int = 0
    slots: int = 0
    held: int = 0


class Deferral(NamedTuple):
    """A wait for another request that computes a common prefix of both prompts."""

    at: float
    donor: str
    tokens: int


@dataclass(slots=True, eq=False)
class RequestRecord:
    """The record of a request.

    Attributes:
        number: Unique among the model's requests.
        request_id: The caller's id; several requests may have the same.
        priority: Its class.
        tenant: Its tenant.
        prompt_tokens: Its prompt's length.
        max_tokens: Its limit of output tokens.
        arrived: Its arrival, in seconds since 1970.
        ahead: The queue at its arrival.
        stages: The states it has entered, oldest first.
        moves: Times at which it was moved to another slot, with that slot.
        deferrals: Its waits for a prefix that another request computed.
        cached_tokens: Prompt tokens found in the cache; None before admission.
        output_tokens: Tokens produced so far.
        finish_reason: Why it finished; None before, and after a failure.
        error: The error message that its caller got; empty without an error.
    """

    number: int
    request_id: str
    priority: Priority
    tenant: str
    prompt_tokens: int
    max_tokens: int
    arrived: float
    ahead: Ahead
    stages: list[Stage] = field(default_factory=list)
    moves: list[tuple[float, int]] = field(default_factory=list)
    deferrals: list[Deferral] = field(default_factory=list)
    cached_tokens: int | None = None
    output_tokens: int = 0
    finish_reason: FinishReason | None = None
    error: str = ""

    @property
    def state(self) -> State:
        """Its current state."""
        return self.stages[-1].state

    @property
    def began_at(self) -> float:
        """Its arrival, in seconds of the engine's clock."""
        return self.stages[0].at

    def visits(self, now: float) -> Iterator[Visit]:
        """Yield the request's stay in each state that is not an end, up to `now`."""
        for stage, following in itertools.zip_longest(self.stages, self.stages[1:]):
            if not stage.state.ended:
                end = now if following is None else following.at
                until = self.output_tokens if following is None else following.output_tokens
                tokens = max(until - stage.output_tokens, 0)
                yield Visit(stage, max(end - stage.at, 0.0), tokens, following is None)
