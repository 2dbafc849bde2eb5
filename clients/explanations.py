"""What became of a request."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from llm_serving_engine.clients.conversion import word
from llm_serving_engine.v1 import generation_pb2, operations_pb2


@dataclass(frozen=True, slots=True)
class Stage:
    """A state that a request came into.

    Attributes:
        state: "waiting", "prefill", "decode", "finished", "cancelled", "expired", "failed".
        event: What led to it, such as "admit" or "preempt".
        start: Seconds from the request's arrival.
        slot: The slot that it had; None while it waited.
        completion_tokens: Tokens that it had produced by then.
        taken_by: The request that took its slot; empty where none did.
        restored_tokens: Tokens of a cache that were put into the slot.
    """

    state: str
    event: str
    start: float
    slot: int | None
    completion_tokens: int
    taken_by: str
    restored_tokens: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of one request.

    Attributes:
        request_id: As its caller knows it.
        model: The model.
        priority: Its class.
        tenant: On whose behalf; empty where no one said.
        arrived: When it came, in UTC.
        prompt_tokens: Tokens of its prompt.
        cached_prompt_tokens: Those found in the cache; None before that is settled.
        completion_tokens: Tokens produced so far.
        max_tokens: Tokens that it may produce.
        stages: The states that it came into, oldest first.
        sentences: The same for people.
    """

    request_id: str
    model: str
    priority: str
    tenant: str
    arrived: datetime
    prompt_tokens: int
    cached_prompt_tokens: int | None
    completion_tokens: int
    max_tokens: int
    stages: tuple[Stage, ...]
    sentences: tuple[str, ...]


def explanation(message: operations_pb2.RequestExplanation) -> Explanation:
    """From the wire."""
    cached = message.cached_prompt_tokens if message.HasField("cached_prompt_tokens") else None
    return Explanation(
        request_id=message.request_id,
        model=message.model,
        priority=word(generation_pb2.Priority.DESCRIPTOR, message.priority),
        tenant=message.tenant,
        arrived=message.arrived.ToDatetime(tzinfo=timezone.utc),
        prompt_tokens=message.prompt_tokens,
        cached_prompt_tokens=cached,
        completion_tokens=message.completion_tokens,
        max_tokens=message.max_tokens,
        stages=tuple(map(_stage, message.stages)),
        sentences=tuple(message.sentences),
    )


def _stage(message: operations_pb2.RequestStage) -> Stage:
    return Stage(
        state=word(operations_pb2.RequestState.DESCRIPTOR, message.state),
        event=message.event,
        start=message.start.seconds + message.start.nanos / 1e9,
        slot=message.slot if message.HasField("slot") else None,
        completion_tokens=message.completion_tokens,
        taken_by=message.taken_by,
        restored_tokens=message.restored_tokens,
    )
