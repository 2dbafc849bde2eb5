"""The scheduler's part of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

Determinism = Literal["batch_invariant", "fast"]

_MAY_BE_ZERO = frozenset({"snapshot_bytes_max", "delivery_seconds"})


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits and trade-offs of one model's scheduler.

    Attributes:
        policy: Which request of a class goes first: "fair", "first_come",
            "shortest_job", or an import path "module:Class" of a Policy.
        aging_seconds: The request that waits longest gets the next free slot,
            whatever its class, once it has waited this long; one slot in eight
            at most. Shorter protects low classes, and delays high ones.
        queue_requests_max: Requests that may wait. A longer queue refuses less
            and lets each request wait longer.
        queue_tokens_max: Tokens that waiting requests may ask for, prompts and
            max_tokens added up. Bounds the wait where lengths differ much.
        tenant_queue_share: The part of both that one tenant may hold. Below 1,
            no tenant can fill the queue for all.
        step_target_seconds: How long prompts may hold up running streams
            between two of their tokens. Lower gives smooth streams, higher
            gives fast first tokens. Default: measured when the model is loaded.
        delivery_seconds: Tokens of a stream that are computed within this time come
            together while no prompt is computed: fewer messages, and more tokens a
            second. At most half of the step target. 0 sends each by itself.
        determinism: "batch_invariant" for the same tokens whatever else runs,
            where model and machine allow it; "fast" leaves that to chance.
        prefix_cache: Whether prompts share what they begin with.
        snapshot_bytes_max: Memory for the caches of requests that lost their
            slots. What does not fit is computed again.
        stream_buffer_tokens_max: Tokens that a caller may be behind before its
            request is ended. Covers slow readers; costs memory per request.
        runner_losses_max: Runner losses during which a request ran, at which it
            is suspected: it is then tried alone, and others wait for that. More
            tries fewer bystanders, and lets a request that kills runners kill
            more of them. Losses that no request can cause do not count.
        recovery_seconds_max: How long requests that were taken wait for a
            lost runner to come back, if their deadlines are not earlier.
    """

    policy: str = "fair"
    aging_seconds: float = 120.0
    queue_requests_max: int = 2048
    queue_tokens_max: int = 4_000_000
    tenant_queue_share: float = 0.5
    step_target_seconds: float | None = None
    delivery_seconds: float = 0.06
    determinism: Determinism = "fast"
    prefix_cache: bool = True
    snapshot_bytes_max: int = 512 * 1024 * 1024
    stream_buffer_tokens_max: int = 4096
    runner_losses_max: int = 1
    recovery_seconds_max: float = 300.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None or isinstance(value, str | bool):
                continue
            if value < 0 or (value == 0 and field.name not in _MAY_BE_ZERO):
                raise ValueError(f"{field.name} is {value}, which is too small")
        if self.tenant_queue_share > 1:
            raise ValueError(f"tenant_queue_share is {self.tenant_queue_share}; it is at most 1")
