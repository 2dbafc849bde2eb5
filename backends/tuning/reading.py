"""What was measured of a runner, and what it says of the load to tune for."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import NamedTuple


class Mix(NamedTuple):
    """What each client asks for, again and again.

    Attributes:
        prompt_tokens: Of a prompt.
        output_tokens: Of the answer.
    """

    prompt_tokens: int
    output_tokens: int


# A question with some context and a paragraph in answer, a few pages and a sentence,
# a line and a page.
CHAT = "chat"
MIXES = {CHAT: Mix(256, 128), "documents": Mix(1536, 64), "writing": Mix(64, 512)}


class Reading(NamedTuple):
    """How fast a runner is.

    Attributes:
        prefill_token_seconds: Seconds for a prompt token.
        decode_step_seconds: Seconds for a step with a row for each client that has a slot.
        rows: Rows of that step.
        mix: What it is to be judged by.
    """

    prefill_token_seconds: float
    decode_step_seconds: float
    rows: int
    mix: Mix = MIXES[CHAT]

    @property
    def tokens_per_second(self) -> float:
        """Tokens of output in a second, the time for their prompts included."""
        prompt, output = self.mix
        prompts = self.rows * prompt * self.prefill_token_seconds
        return self.rows * output / (prompts + output * self.decode_step_seconds)


def median(readings: Iterable[Reading]) -> Reading:
    """The middle of several readings of one runner, for each number by itself."""
    prefills, decodes, rows, mixes = zip(*readings, strict=True)
    return Reading(statistics.median(prefills), statistics.median(decodes), rows[0], mixes[0])
