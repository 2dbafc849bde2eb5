"""The server's description of its scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from llm_serving_engine.clients.requests import Priority

SlotActivity = Literal["unspecified", "free", "cached", "sharing", "prefill", "decode"]
"""What a slot does: "cached" holds only what the last sequence left behind, and in "sharing"
the beginning of its sequence is being copied from another slot, or restored from a saved cache.
"""


@dataclass(frozen=True, slots=True)
class QueueState:
    """The waiting requests of one class, and the tokens they will take."""

    priority: Priority
    requests: int
    tokens: int


@dataclass(frozen=True, slots=True)
class TenantState:
    """What one tenant waits for, and what it has had.

    Attributes:
        tenant: Its name; empty for callers that name none.
        queues: The classes in which any of its requests waits, highest first.
        running: Its requests that hold a slot.
        service: How far it is ahead of the active tenant that was served
            least, in weighted tokens; None where it has no live requests, or
            the policy keeps no such count.
        prompt_tokens: Tokens of its prompts so far.
        completion_tokens: Tokens produced for it so far.
    """

    tenant: str
    queues: tuple[QueueState, ...]
    running: int
    service: float | None
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Slot:
    """One sequence slot.

    Attributes:
        index: Its number, from 0.
        state: What it does.
        request_id: The request it serves; empty where it holds none.
        priority: That request's class.
        tenant: That request's tenant; empty without a request or a tenant.
        tokens: Tokens in its cache.
        completion_tokens: Tokens produced so far.
        prompt_tokens: Tokens of the request's prompt.
        cached_prompt_tokens: Those that were found in the cache.
        max_tokens: Tokens that the request may produce.
        sharing_tokens: Tokens that are being copied or restored; 0 but in "sharing".
    """

    index: int
    state: SlotActivity
    request_id: str
    priority: Priority
    tenant: str
    tokens: int
    completion_tokens: int
    prompt_tokens: int
    cached_prompt_tokens: int
    max_tokens: int
    sharing_tokens: int


@dataclass(frozen=True, slots=True)
class StepState:
    """What the last step was made of.

    Attributes:
        number: Counts the steps, from 1.
        decode_rows: Sequences that got a token.
        decode_runs: Runs of consecutive slots among them.
        prefill_tokens: Tokens of prompts.
        prefill_chunks: The pieces that they came in.
        copies: Prefixes and sequences that were copied from slot to slot.
        saves: Caches that were saved to memory.
        restores: Caches that were restored from it.
        duration: The runner's time, in seconds.
        predicted: What the cost model expects of such a step, in seconds.
        target: What a step may take while prompts are computed, in seconds.
    """

    number: int
    decode_rows: int
    decode_runs: int
    prefill_tokens: int
    prefill_chunks: int
    copies: int
    saves: int
    restores: int
    duration: float
    predicted: float
    target: float


@dataclass(frozen=True, slots=True)
class SchedulerTotals:
    """What was done since the model was loaded.

    Attributes:
        preemptions: Slots taken for a higher class.
        saves: Caches of those that were saved to memory.
        moves: Sequences moved to make rows dense.
        prefix_hits: Requests that found a part of their prompt in the cache.
        prefix_tokens: Those parts, in tokens.
    """

    preemptions: int
    saves: int
    moves: int
    prefix_hits: int
    prefix_tokens: int


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of a time, in seconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class LatencyState:
    """What callers felt, over the last 1,000 requests that finished.

    Attributes:
        priority: The class; None for all together.
        requests: How many of those requests were of it.
        time_to_first_token: From arrival.
        time_per_output_token: Between tokens; None where none had two.
    """

    priority: Priority | None
    requests: int
    time_to_first_token: Percentiles
    time_per_output_token: Percentiles | None


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
        policy: Who goes first: "fair", "first_come", "shortest_job", or an
            import path.
        determinism: "batch_invariant" or "fast".
        tenants: Those with live requests, then those that were here last.
        tenants_omitted: Those with live requests that are not among them.
        totals: What was done so far.
        saved_cache_bytes: Memory of the caches of requests that lost their slots.
        saved_cache_bytes_max: The limit of that.
        prefill_tokens_per_second: Of prompts, averaged over the last 10 seconds.
        latencies: Over all classes first, then by class, highest first; empty
            before a request has finished.
        refusals: Requests that were not taken, by reason: the limit that was
            reached, such as "queue.requests", "deadline_unreachable", or the
            error's label.
    """

    model: str
    time: datetime
    queues: tuple[QueueState, ...]
    slots: tuple[Slot, ...]
    last_step: StepState | None
    tokens_per_second: float
    outcomes: Mapping[str, int]
    policy: str
    determinism: str
    tenants: tuple[TenantState, ...]
    tenants_omitted: int
    totals: SchedulerTotals
    saved_cache_bytes: int
    saved_cache_bytes_max: int
    prefill_tokens_per_second: float
    latencies: tuple[LatencyState, ...]
    refusals: Mapping[str, int]
