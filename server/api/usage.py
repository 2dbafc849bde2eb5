"""Converts usage and timings to their form in HTTP responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_serving_engine.server.events import Finished, Usage


def usage_of_prompts(usages: Sequence[Usage], choices: int) -> dict[str, Any]:
    """Return the usage of several answers; each prompt counts once.

    Args:
        usages: Of all answers; those to the first prompt come first.
        choices: Answers to each prompt.
    """
    prompts = usages[::choices]
    prompt = sum(usage.prompt_tokens for usage in prompts)
    completion = sum(usage.completion_tokens for usage in usages)
    cached = sum(usage.cached_prompt_tokens for usage in prompts)
    reasoning = sum(usage.reasoning_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def timings_of(finished: Finished) -> dict[str, float | None]:
    """Return an answer's times in milliseconds."""
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
