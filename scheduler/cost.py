"""How long a step takes: a linear model, learned from the steps as they come.

The parts of a step and what they cost are a Kalman filter's observation and
state: each measured step corrects the costs in proportion to how uncertain
they are and how much they had to do with it. Costs are never negative.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from llm_serving_engine.scheduler.step import Capabilities, CopyPrefix, Step


class Shape(NamedTuple):
    """What a step is made of, as far as it costs time.

    Attributes:
        step: 1: every step has a fixed cost.
        rows: Decode rows.
        runs: Runs of consecutive slots among them: each is a batch of its own.
        row_context: Tokens that the rows look at, in thousands.
        prefill: Prompt tokens.
        prefill_context: Prompt tokens times the thousands of tokens before them.
        copies: Copied prefixes: libraries copy whole slots, however little is in them.
        saves: Saved tokens, in thousands.
    """

    step: float = 1.0
    rows: float = 0.0
    runs: float = 0.0
    row_context: float = 0.0
    prefill: float = 0.0
    prefill_context: float = 0.0
    copies: float = 0.0
    saves: float = 0.0

    @classmethod
    def of(cls, step: Step, saved_tokens: int = 0) -> Shape:
        """The shape of a step, which saves that many tokens."""
        slots = [row.slot for row in step.decodes]
        return cls(
            rows=len(slots),
            runs=count_runs(slots),
            row_context=sum(row.position for row in step.decodes) / 1000,
            prefill=step.prefill_tokens,
            prefill_context=sum(
                len(c.tokens) * (c.position + len(c.tokens) / 2) / 1000 for c in step.prefills
            ),
            copies=sum(isinstance(o, CopyPrefix) for o in step.operations),
            saves=saved_tokens / 1000,
        )


def count_runs(slots: Iterable[int]) -> int:
    """How many runs of consecutive numbers there are in ascending `slots`."""
    runs, before = 0, None
    for slot in slots:
        runs += before is None or slot != before + 1
        before = slot
    return runs


# Seconds, of a 135-million-parameter model in Q4_0 on two cores; what a model
# really costs is learned from its first steps.
PRIOR = Shape(0.002, 0.0025, 0.006, 0.0015, 0.0023, 0.003, 0.006, 0.1)
# How far off the first guess may be, and how fast costs may drift, as factors.
PRIOR_SPREAD = 3.0
DRIFT_PER_STEP = 0.01
# How much a measured step differs from the next one like it.
NOISE = 0.15
# One step that was held up by something else says little.
OUTLIER = 3.0
# Of a token: the time of some tokens has room for as many.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Speed:
    """What a runner measured when it loaded: seconds per prompt token, and per decode step."""

    prefill_token: float
    decode_step: float

    @classmethod
    def of(cls, capabilities: Capabilities) -> Speed | None:
        """A runner's; None where it did not measure."""
        seconds = capabilities.prefill_token_seconds, capabilities.decode_step_seconds
        return cls(*seconds) if all(seconds) else None


class CostModel:
    """Predicts steps, and learns from them."""

    def __init__(self, speed: Speed | None = None) -> None:
        """Begin with what is known.

        Args:
            speed: Of this model on this machine. Default: a small model's.
        """
        self.costs = list(_scaled(speed))
        self._prior = tuple(self.costs)
        size = len(self.costs)
        self._variance = [
            [(PRIOR_SPREAD * self.costs[i]) ** 2 if i == j else 0.0 for j in range(size)]
            for i in range(size)
        ]

    @property
    def cost(self) -> Shape:
        """Seconds for each part."""
        return Shape(*self.costs)

    def predict(self, shape: Shape) -> float:
        """Seconds that a step of that shape takes."""
        return sum(cost * part for cost, part in zip(self.costs, shape, strict=True))

    def prefill_seconds(self, tokens: int, position: int = 0) -> float:
        """Seconds to compute that many tokens from a position on, step by step."""
        cost = self.cost
        return tokens * (cost.prefill + cost.prefill_context * (position + tokens / 2) / 1000)

    def prefill_tokens(self, seconds: float, position: int) -> int:
        """How many tokens from a position on can be computed in that time; may be 0."""
        if seconds <= 0:
            return 0
        # prefill_seconds is a quadratic of the tokens; this is its positive root.
        cost = self.cost
        first = cost.prefill + cost.prefill_context * position / 1000
        last = math.sqrt(first**2 + 2 * cost.prefill_context / 1000 * seconds)
        return int(2 * seconds / max(first + last, 1e-9) + ROUNDING)

    def decode_seconds(self, rows: int) -> float:
        """Seconds of a step that only decodes, with dense rows of a modest context."""
        return self.predict(Shape(rows=rows, runs=min(rows, 1), row_context=rows * 0.25))

    def learn(self, shape: Shape, seconds: float) -> None:
        """Take in what a step took; 0 says that nobody measured."""
        if seconds <= 0:
            return
        expected = self.predict(shape)
        seconds = min(seconds, OUTLIER * expected) if self._settled(shape) else seconds
        self._drift()
        # Most steps lack most parts: what is 0 needs no arithmetic.
        parts = [(i, part) for i, part in enumerate(shape) if part]
        weights = [sum(row[i] * part for i, part in parts) for row in self._variance]
        noise = (NOISE * max(seconds, expected)) ** 2 + 1e-12
        total = sum(weights[i] * part for i, part in parts) + noise
        error = seconds - expected
        for i, weight in enumerate(weights):
            gain = weight / total
            if gain:
                self.costs[i] = max(self.costs[i] + gain * error, 0.0)
                self._variance[i] = [
                    v - gain * w for v, w in zip(self._variance[i], weights, strict=True)
                ]

    def _settled(self, shape: Shape) -> bool:
        """Whether enough is known of such steps to call one an outlier."""
        spread = sum((part**2) * self._variance[i][i] for i, part in enumerate(shape))
        return spread < (self.predict(shape) / 2) ** 2

    def _drift(self) -> None:
        for i, prior in enumerate(self._prior):
            limit = (PRIOR_SPREAD * max(prior, self.costs[i])) ** 2
            step = (DRIFT_PER_STEP * max(self.costs[i], prior / 10)) ** 2
            self._variance[i][i] = min(self._variance[i][i] + step, limit)


def _scaled(speed: Speed | None) -> Shape:
    if speed is None:
        return PRIOR
    prefill, decode = speed.prefill_token / PRIOR.prefill, speed.decode_step / 0.01
    return PRIOR._replace(
        rows=PRIOR.rows * decode,
        runs=PRIOR.runs * decode,
        row_context=PRIOR.row_context * decode,
        prefill=speed.prefill_token,
        prefill_context=PRIOR.prefill_context * prefill,
    )
