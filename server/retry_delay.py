"""Adds jitter to retry delays, so that refused callers do not retry together."""

from __future__ import annotations

import random

# Callers that were refused together are spread over this part of the delay.
JITTER = 0.25


def with_jitter(seconds: float) -> float:
    """Lengthen a delay by a random part; a shorter delay would lead to another refusal."""
    return seconds * random.uniform(1.0, 1.0 + JITTER)
