"""Usage and timings as HTTP callers read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_serving_engine.server.service.events import Finished, Usage


def chat_usage(usages: Sequence[Usage]) -> dict[str, Any]:
    """The usage of all answers to one prompt: the prompt counts once."""
    prompt = usages[0].prompt_tokens
    completion = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": usages[0].cached_prompt_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def timings_of(finished: Finished) -> dict[str, float | None]:
    """Where the time of an answer went, in milliseconds."""
    timings = finished.timings
    first = timings.time_to_first_token
    return {
        "queue_ms": _milliseconds(timings.queue),
        "prefill_ms": _milliseconds(timings.prefill),
        "decode_ms": _milliseconds(timings.decode),
        "time_to_first_token_ms": None if first is None else _milliseconds(first),
    }


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
