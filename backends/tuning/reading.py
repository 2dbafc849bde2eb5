"""What was measured of a runner, and what it says of the load to tune for."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import NamedTuple

# What each client asks for: a question with some context, and a paragraph in answer.
PROMPT_TOKENS = 256
OUTPUT_TOKENS = 128


class Reading(NamedTuple):
    """How fast a runner is.

    Attributes:
        prefill_token_seconds: Seconds for a prompt token.
        decode_step_seconds: Seconds for a step with a row for each client that has a slot.
        rows: Rows of that step.
    """

    prefill_token_seconds: float
    decode_step_seconds: float
    rows: int

    @property
    def tokens_per_second(self) -> float:
        """Tokens of output in a second, the time for their prompts included."""
        prompts = self.rows * PROMPT_TOKENS * self.prefill_token_seconds
        return self.rows * OUTPUT_TOKENS / (prompts + OUTPUT_TOKENS * self.decode_step_seconds)


def median(readings: Iterable[Reading]) -> Reading:
    """The middle of several readings of one runner, for each number by itself."""
    prefills, decodes, rows = zip(*readings, strict=True)
    return Reading(statistics.median(prefills), statistics.median(decodes), rows[0])
