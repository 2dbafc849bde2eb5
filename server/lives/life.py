"""One request from its arrival to its end, without a word of what it says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.request import FinishReason, Priority


@dataclass(slots=True)
class Stage:
    """A state that the request came into.

    Attributes:
        state: The state.
        event: What led to it.
        at: When, in seconds of the engine's clock.
        output_tokens: Tokens that the request had then.
        slot: The slot that it had; None while it waited.
        taken_by: Who took its slot, where that led here.
        restored_at: When its saved or copied cache was in the slot; None where there was none.
        restored_tokens: How many tokens that were.
        copied: Whether they were another request's.
    """

    state: State
    event: Event
    at: float
    output_tokens: int = 0
    slot: int | None = None
    taken_by: Life | None = None
    restored_at: float | None = None
    restored_tokens: int = 0
    copied: bool = False


class Visit(NamedTuple):
    """A stay in a state.

    Attributes:
        stage: The state, and what led to it.
        seconds: How long.
        tokens: What was produced in it.
        lasts: Whether the request is still there.
    """

    stage: Stage
    seconds: float
    tokens: int
    lasts: bool


class Ahead(NamedTuple):
    """What was before a request when it came.

    Attributes:
        higher: Waiting requests of higher classes.
        same: Those of its own class.
        own_tenant: Those of its own tenant, in any class.
        tenants: Tenants with waiting requests, its own included.
        slots: Slots that there are.
        held: Those that were held.
    """

    higher: int = 0
    same: int = 0
    own_tenant: int = 0
    tenants: int = 0
    slots: int = 0
    held: int = 0


class Deferral(NamedTuple):
    """A wait for what another request computed: the first tokens of this one's prompt."""

    at: float
    donor: str
    tokens: int


@dataclass(slots=True, eq=False)
class Life:
    """What is known of a request.

    Attributes:
        number: Tells it from all others of the model.
        request_id: As the caller knows it; several requests may have the same.
        priority: Its class.
        tenant: On whose behalf.
        prompt_tokens: Its prompt's length.
        max_tokens: What it may produce.
        arrived: When it came, in seconds since 1970.
        ahead: What was before it then.
        stages: The states it came into, oldest first.
        moves: Times at which it was moved, with the new slot.
        deferrals: When it waited for another's prefix.
        cached_tokens: Prompt tokens found in the cache; None before that is settled.
        output_tokens: What it has produced.
        finish_reason: Why it finished.
        error: What its caller was told; empty where nothing was wrong.
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
        """The state it is in."""
        return self.stages[-1].state

    @property
    def began_at(self) -> float:
        """When it came, in seconds of the engine's clock."""
        return self.stages[0].at

    def visits(self, now: float) -> Iterator[Visit]:
        """Each state that lasts, up to now."""
        for stage, following in itertools.zip_longest(self.stages, self.stages[1:]):
            if not stage.state.ended:
                end = now if following is None else following.at
                until = self.output_tokens if following is None else following.output_tokens
                tokens = max(until - stage.output_tokens, 0)
                yield Visit(stage, max(end - stage.at, 0.0), tokens, following is None)
