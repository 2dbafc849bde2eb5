"""What the server says of its scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from llm_serving_engine.clients.requests import Priority

SlotActivity = Literal["unspecified", "free", "prefill", "decode"]
"""What a slot does."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """The waiting requests of one class, and the tokens they will take."""

    priority: Priority
    requests: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Slot:
    """One sequence slot.

    Attributes:
        index: Its number, from 0.
        state: What it does.
        request_id: The request it serves; empty where it is free.
        priority: That request's class.
        tenant: On whose behalf; empty where it is free or nobody said.
        tokens: Tokens in its cache.
        completion_tokens: Tokens produced so far.
    """

    index: int
    state: SlotActivity
    request_id: str
    priority: Priority
    tenant: str
    tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class StepState:
    """What the last step was made of; `duration` is the runner's, in seconds."""

    number: int
    decode_rows: int
    prefill_tokens: int
    duration: float


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """Everything there is to see of one model's scheduler.

    Attributes:
        model: The model.
        time: When this was read, in UTC.
        queues: One entry per class, highest first.
        slots: One entry per slot, by index.
        last_step: None before the first step.
        tokens_per_second: Produced, averaged over the last 10 seconds.
        outcomes: Requests that ended since the model was loaded, by outcome:
            "finished", "cancelled", "expired", "failed", "refused".
    """

    model: str
    time: datetime
    queues: tuple[QueueState, ...]
    slots: tuple[Slot, ...]
    last_step: StepState | None
    tokens_per_second: float
    outcomes: Mapping[str, int]
