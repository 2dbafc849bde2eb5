"""The scheduler's part of the configuration."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, fields
from typing import Any, Literal

Determinism = Literal["batch_invariant", "fast"]

_MAY_BE_ZERO = frozenset({"snapshot_bytes_max", "delivery_seconds"})


def check_numbers(settings: Any, may_be_zero: Container[str]) -> None:
    """Check that a dataclass has no number below 0, nor 0 but in the fields that may be it.

    Raises:
        ValueError: One is too small, or not a number.
    """
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value is None or isinstance(value, str | bool):
            continue
        if not value >= 0 or (value == 0 and field.name not in may_be_zero):
            least = "at least 0" if field.name in may_be_zero else "above 0"
            raise ValueError(f"{field.name} is {value}; it must be {least}")


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits and trade-offs of one model's scheduler.

    Attributes:
        policy: Decides which request of a class goes first: "fair", "first_come",
            "shortest_job", or an import path "module:Class" of a Policy.
        aging_seconds: Wait after which a request gets the next free slot, whatever its class;
            the longest wait goes first, and at most one slot in eight is given this way. A
            shorter time protects low classes, and delays high ones.
        queue_requests_max: Requests in the queue. A longer queue refuses fewer requests, and
            each waits longer.
        queue_tokens_max: Tokens of all requests in the queue, prompts plus max_tokens. Bounds
            the wait where lengths differ much.
        tenant_queue_share: The share of both limits that one tenant may use. Below 1, no tenant
            can fill the queue.
        step_target_seconds: How long a prompt may delay running streams between two of their
            tokens; twice as long if it is short, of a higher class, or one of many. A lower
            value gives smoother streams, a higher value earlier first tokens. Not set: computed
            when the model is loaded, from measured costs of calls.
        delivery_seconds: While no prompt is computed, the tokens of a stream that are computed
            within this time are sent together, which saves messages and CPU time. At most half
            of the step target. 0: each token is sent by itself.
        determinism: "batch_invariant": a request gets the same tokens whatever else runs, if
            model and machine allow it. "fast": it may not.
        prefix_cache: Whether prompts share the caches of common prefixes.
        snapshot_bytes_max: Memory for the caches of preempted requests. Caches that do not fit
            are computed again.
        stream_buffer_tokens_max: Tokens that a client may be behind; then its request ends. A
            higher value tolerates slower readers, and takes memory for each request.
        runner_losses_max: Losses of the runner after which a request that ran during each of
            them is tried alone, while others wait, because it may be their cause. A higher value
            tries fewer innocent requests, but lets a harmful one kill more runners. Losses that
            no request can cause do not count.
        recovery_seconds_max: How long accepted requests wait for the replacement of a lost
            runner, unless their deadline is earlier.
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
        check_numbers(self, _MAY_BE_ZERO)
        if self.tenant_queue_share > 1:
            raise ValueError(f"tenant_queue_share is {self.tenant_queue_share}; it is at most 1")
