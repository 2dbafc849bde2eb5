"""The scheduler's part of the configuration."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits and trade-offs of one model's scheduler.

    Attributes:
        queue_requests_max: Requests that may wait. More are refused: a longer
            queue refuses less and lets each wait longer.
        queue_tokens_max: Tokens that waiting requests may ask for, prompts and
            max_tokens added up. Bounds the wait where lengths differ much.
        prefill_tokens_max: Prompt tokens of a step while nothing decodes. A
            larger step costs less overhead, and makes whoever arrives during
            it wait for its end.
        prefill_tokens_max_while_decoding: Prompt tokens of a step beside
            decode rows. More of them shorten the time to first token, and
            lengthen the gap between the tokens of running streams.
        stream_buffer_tokens_max: Tokens that a caller may be behind before its
            request is ended. Covers slow readers; costs memory per request.
        runner_losses_max: How often a request survives the death of its
            runner. More protects more requests from a bystander's crash, and
            lets a request that kills runners kill more of them.
    """

    queue_requests_max: int = 256
    queue_tokens_max: int = 1_000_000
    prefill_tokens_max: int = 512
    prefill_tokens_max_while_decoding: int = 64
    stream_buffer_tokens_max: int = 4096
    runner_losses_max: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < (0 if field.name == "runner_losses_max" else 1):
                raise ValueError(f"{field.name} is {getattr(self, field.name)}, which is too small")
