"""When a refused caller is told to come again: not all at the same moment."""

from __future__ import annotations

import random

# Callers that were refused together are spread over this part of the delay.
JITTER = 0.25


def with_jitter(seconds: float) -> float:
    """The delay, longer by a random part: an earlier return would be refused again."""
    return seconds * random.uniform(1.0, 1.0 + JITTER)
