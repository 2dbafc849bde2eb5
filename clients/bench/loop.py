"""Clients that send one request after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from llm_serving_engine.clients.bench.plan import Lane, PlannedRequest
from llm_serving_engine.clients.bench.prompts import prompt
from llm_serving_engine.clients.bench.settings import Settings

REQUESTS_PER_SECOND_MAX = 10  # of one client: more than any that waits for a slot gets through


def closed_loop(
    request: PlannedRequest, numbers: Iterator[int], settings: Settings, seconds: float
) -> Lane:
    """Requests such as `request`, each with a prompt of its own, enough for so many seconds."""
    count = math.ceil(seconds * REQUESTS_PER_SECOND_MAX)
    texts = (prompt(next(numbers), settings.prompt_words, settings.seed) for _ in range(count))
    return tuple(replace(request, prompt=text) for text in texts)
