"""The scheduler's part of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

Determinism = Literal["batch_invariant", "fast"]

_MAY_BE_ZERO = frozenset(
    {
        "ahead_step_seconds_max",
        "tenant_tokens_per_second",
        "saved_cache_bytes_max",
        "prefix_tokens_min",
    }
)


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits and trade-offs of one model's scheduler.

    Attributes:
        policy: Who goes first: "fair", "first_come", "shortest_job", or an
            import path "module:Class" of a Policy.
        aging_seconds: A waiting request rises by one class each time it has
            waited this long. Shorter ages protect low classes, and let them
            into the way of high ones.
        prompt_token_weight: What a prompt token counts for in a tenant's share.
        output_token_weight: What a token of output counts for: more, as it
            takes a step of its own.
        queue_requests_max: Requests that may wait. More are refused: a longer
            queue refuses less and lets each wait longer.
        queue_tokens_max: Tokens that waiting requests may ask for, prompts and
            max_tokens added up. Bounds the wait where lengths differ much.
        queue_requests_per_tenant_max: As queue_requests_max, for each tenant.
            Below that, so that none can fill the queue for all.
        queue_tokens_per_tenant_max: As queue_tokens_max, for each tenant.
        tenant_tokens_per_second: Prompt and max_tokens that a tenant may ask
            for in the long run; 0 for no quota.
        tenant_tokens_burst: What it may ask for at once after a pause.
        tenants_max: Tenants whose share or quota is remembered. Beyond, those
            that were served least are forgotten first.
        step_target_seconds: How long a step may take while prompts are
            computed. Bounds the gap between the tokens of running streams, and
            what an urgent request waits for; shorter costs throughput.
        step_stretch_max: How many times the target a step may take where many
            prompts wait to be computed: one time for each of them but the
            first. More gives a burst its first tokens sooner, and lets
            streams that run wait for it; 1 for never.
        prompt_stretch_max: How many times the target a step may take where
            that computes all of a prompt that has just begun. More gives short
            prompts their first tokens sooner, and lets streams that run wait
            for it; 1 for never.
        ahead_step_seconds_max: Steps that are expected to be shorter are sent
            before the one before them is done, so that the runner never waits.
            Whoever arrives then waits for one step more, and where threads take
            all cores, longer steps gain nothing by it; 0 for never.
        prefill_tokens_max: Prompt tokens of a step, however fast they are.
        preemption: Whether a waiting request takes the slot of a running one
            of a lower class.
        preemption_share_tokens: Tokens that a request which lost its slot
            produces before it can lose it again.
        saved_cache_bytes_max: Memory for the caches of requests that lost
            their slots. What does not fit is computed again.
        prefix_cache: Whether prompts share what they begin with.
        prefix_tokens_min: Common tokens below which sharing is not worth it.
        compaction: Whether sequences move to fill holes between the slots.
        determinism: "batch_invariant" for the same tokens whatever else runs,
            where model and machine allow it; "fast" leaves that to chance.
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
    prompt_token_weight: float = 1.0
    output_token_weight: float = 2.0
    queue_requests_max: int = 2048
    queue_tokens_max: int = 4_000_000
    queue_requests_per_tenant_max: int = 1024
    queue_tokens_per_tenant_max: int = 2_000_000
    tenant_tokens_per_second: float = 0.0
    tenant_tokens_burst: int = 100_000
    tenants_max: int = 10_000
    step_target_seconds: float = 0.125
    step_stretch_max: int = 4
    prompt_stretch_max: float = 2.0
    ahead_step_seconds_max: float = 0.025
    prefill_tokens_max: int = 512
    preemption: bool = True
    preemption_share_tokens: int = 32
    saved_cache_bytes_max: int = 512 * 1024 * 1024
    prefix_cache: bool = True
    prefix_tokens_min: int = 16
    compaction: bool = True
    determinism: Determinism = "fast"
    stream_buffer_tokens_max: int = 4096
    runner_losses_max: int = 1
    recovery_seconds_max: float = 300.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str | bool):
                continue
            lowest_is_zero = field.name in _MAY_BE_ZERO
            if not (value >= 0 if lowest_is_zero else value > 0):
                raise ValueError(f"{field.name} is {value}, which is too small")
