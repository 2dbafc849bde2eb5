"""The plan of requests and their times, as pure data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from llm_serving_engine.clients.requests import Priority


@dataclass(frozen=True, slots=True)
class Gate:
    """Open once every request of the phase labelled so has that many tokens, or has ended."""

    label: str
    tokens: int


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request.

    Attributes:
        prompt: The text to continue.
        max_tokens: The tokens to produce, exactly.
        label: What gates and reports call it.
        at: Not before this many seconds from the phase's start.
        pause: Not before this many seconds from the end of the lane's request before.
        after: Not before this gate is open.
        until: Left, as by a user who has read enough, when this gate is open.
        continues: The prompt is preceded by that of the lane's request before, and by what
            was answered to it.
        deadline: Seconds after which the answer is of no use; None for no such time.
        priority: Its class; None for the server's default.
        tenant: On whose behalf; empty for the run's own tenant.
        cache_salt: It shares cached prefixes only with the run's requests of the same salt.
        temperature: 0 is greedy.
        seed: Of the sampling, below 2**32; None for the server's choice.
    """

    prompt: str
    max_tokens: int
    label: str = ""
    at: float = 0.0
    pause: float = 0.0
    after: Gate | None = None
    until: Gate | None = None
    continues: bool = False
    deadline: float | None = None
    priority: Priority | None = None
    tenant: str = ""
    cache_salt: str = ""
    temperature: float = 0.0
    seed: int | None = None


Lane = tuple[PlannedRequest, ...]
"""What one client sends, one request after the other."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Lanes that run side by side. Phases of one name are repetitions of a measurement.

    Attributes:
        name: Of the measurement.
        lanes: At least one.
        seconds: When this time is over, requests that run are left and the
            others are not sent; None for no limit.
    """

    name: str
    lanes: tuple[Lane, ...]
    seconds: float | None = None

    @property
    def requests(self) -> int:
        """How many there are."""
        return sum(map(len, self.lanes))


Plan = tuple[Phase, ...]
"""Phases, to be run one after the other."""


def changed(plan: Plan, change: Callable[[PlannedRequest], PlannedRequest]) -> Plan:
    """The plan with each request changed."""
    return tuple(
        replace(phase, lanes=tuple(tuple(map(change, lane)) for lane in phase.lanes))
        for phase in plan
    )


def with_nonce(plan: Plan, nonce: str) -> Plan:
    """The plan with words in front of every prompt that no earlier run has sent, if any.

    This keeps a run cold on servers whose caches know no salts.
    """

    def change(request: PlannedRequest) -> PlannedRequest:
        if request.continues or not nonce:
            return request
        return replace(request, prompt=f"{nonce} {request.prompt}")

    return changed(plan, change)


def with_deadline(plan: Plan, seconds: float) -> Plan:
    """The plan with a deadline for every request that has none."""

    def change(request: PlannedRequest) -> PlannedRequest:
        return request if request.deadline is not None else replace(request, deadline=seconds)

    return changed(plan, change)
