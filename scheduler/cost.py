"""How long calls and cache operations take: learned from those that were executed.

There are two fits of calls, one for rows and one for chunks: their kernels differ. Each
is linear in a call's groups, its tokens, and its tokens times the context before them,
so a token costs more in a short chunk than in a long one. A third fit is linear in the
operations before a call, their copied tokens, and their saved or restored tokens.

A fit is a Kalman filter: each value corrects the weights in proportion to how uncertain
they are and how much they had to do with it. Uncertainty grows with every value, so the
fit forgets, and a slow spell ends when it ends. Weights are never negative.
"""

from __future__ import annotations

from collections.abc import Iterable

from llm_serving_engine.scheduler.step import (
    Capabilities,
    Copy,
    Operation,
    Restore,
    Save,
    Shape,
)

Weights = tuple[float, float, float]
Parts = tuple[float, float, float]

# Seconds for a group, a token, and a token's thousand tokens of context: of a
# model of 135 million parameters in Q4_0 on two cores. They only begin a fit.
ROWS: Weights = (0.008, 0.0025, 0.0015)
CHUNKS: Weights = (0.008, 0.0022, 0.003)
# Seconds for an operation, a copied token, and a saved or restored token, of the same.
TRANSFERS: Weights = (0.0001, 0.0000022, 0.00001)
# How uncertain the first guess is: so much that it hardly counts (10 and 160 are the same).
FIRST_UNCERTAINTY = 40.0
# What weights change by from call to call, in parts of what a call differs by from the next
# like it. By the same script nine in ten made-up calls are predicted within 0.065; with 0.03 within
# 0.240, with 0.4 0.053. Of 1,290 live calls on a busy machine it was 0.23 (rows) and 0.22 (chunks),
# with 0.03 0.29 and 0.36; with 0.4 the longest gap of a burst of uneven calls was 2.00 targets, not
# 1.92.
DRIFT = 0.2
# Seconds of the step target where it is computed. Ratios by
# tests/benchmarks/scheduler_constants.py, as in planner.py: with TARGET_MIN 0.06 the p99 first
# token is 1.05 to 1.15 (small); with 0.25 tokens/s are 1.00 to 1.03, and the median first token
# 2.3 in steady of 16. A person reads 4 to 5 tokens a second, so TARGET_MAX: with 0.3 tokens/s are
# 0.93 to 0.99 and the p99 first token 1.08 to 1.39 (large); with 0.8 nothing changes.
TARGET_MIN, TARGET_MAX = 0.125, 0.5
# The part of a lone prompt's speed that it keeps beside rows. With 0.8 tokens/s are the same
# within 1 %; with 0.6 they are 0.96 to 1.00, and the p99 first token 1.00 to 1.26 (large).
SPEED_KEPT = 0.7


class Fit:
    """A recursive fit of seconds to the three parts that they are spent on."""

    def __init__(self, weights: Weights) -> None:
        self.weights = list(weights)
        self._prior = weights
        self._covariance = [
            [(FIRST_UNCERTAINTY * weights[i]) ** 2 if i == j else 0.0 for j in range(3)]
            for i in range(3)
        ]

    def predict(self, parts: Parts) -> float:
        """Seconds that so much of each part takes."""
        group, token, context = self.weights
        return group * parts[0] + token * parts[1] + context * parts[2]

    def learn(self, parts: Parts, seconds: float) -> None:
        """Take in what so much of each part took."""
        expected = self.predict(parts)
        self._drift()
        pulls = [sum(row[i] * part for i, part in enumerate(parts)) for row in self._covariance]
        # What something else held up differs by more, so it says less.
        noise = max(seconds, expected) ** 2 + 1e-12
        total = sum(pull * part for pull, part in zip(pulls, parts, strict=True)) + noise
        for i, pull in enumerate(pulls):
            gain = pull / total
            self.weights[i] = max(self.weights[i] + gain * (seconds - expected), 0.0)
            self._covariance[i] = [
                value - gain * other
                for value, other in zip(self._covariance[i], pulls, strict=True)
            ]

    def _drift(self) -> None:
        for i, prior in enumerate(self._prior):
            limit = (FIRST_UNCERTAINTY * max(prior, self.weights[i])) ** 2
            step = (DRIFT * max(self.weights[i], prior / 10)) ** 2
            self._covariance[i][i] = min(self._covariance[i][i] + step, limit)


class CostModel:
    """Predicts calls and operations.

    Attributes:
        rows, chunks: The fits of calls.
        transfers: That of operations.
    """

    def __init__(self, speeds: Iterable[tuple[Shape, float]] = ()) -> None:
        """Begin with what was timed when the model was loaded, or a small model's costs."""
        speeds = tuple(speeds)
        self.rows = _fitted(ROWS, [s for s in speeds if s[0].rows])
        self.chunks = _fitted(CHUNKS, [s for s in speeds if not s[0].rows])
        self.transfers = Fit(TRANSFERS)

    def predict(self, shape: Shape) -> float:
        """Seconds that a call of that shape takes."""
        return (self.rows if shape.rows else self.chunks).predict(_parts(shape))

    def learn(self, shape: Shape, seconds: float) -> None:
        """Take in what a call took; 0 says that nobody measured."""
        if seconds > 0 and shape.runs:
            (self.rows if shape.rows else self.chunks).learn(_parts(shape), seconds)

    def operations(self, operations: Iterable[Operation]) -> float:
        """Seconds that operations take."""
        return self.transfers.predict(_transferred(operations))

    def learn_operations(self, operations: Iterable[Operation], seconds: float) -> None:
        """Take in what operations took; 0 says that nobody measured."""
        parts = _transferred(operations)
        if seconds > 0 and any(parts):
            self.transfers.learn(parts, seconds)

    def copy_seconds(self, tokens: int) -> float:
        """Seconds of a copy of so many tokens."""
        return self.transfers.predict((1, tokens, 0))

    def chunk_seconds(self, tokens: int, start: int) -> float:
        """Seconds of a call with one chunk."""
        return self.chunks.predict((1, tokens, tokens * (2 * start + tokens) / 2000))

    def prefill_seconds(self, start: int, end: int, chunk: int) -> float:
        """Seconds to compute a prompt from `start` to `end`, in calls of `chunk` tokens."""
        tokens = max(end - start, 0)
        calls = -(-tokens // chunk)
        return self.chunks.predict((calls, tokens, tokens * (start + end) / 2000))

    def rows_seconds(self, rows: int, context: float = 250) -> float:
        """Seconds of a rows step in consecutive slots, each with so many tokens of context."""
        return self.rows.predict((1, rows, rows * context / 1000))


def _fitted(prior: Weights, speeds: list[tuple[Shape, float]]) -> Fit:
    """A fit that begins at the scale of what was measured, and has learned it."""
    guess = Fit(prior).predict
    scale = 1.0
    if speeds:
        expected = sum(guess(_parts(shape)) for shape, _ in speeds)
        scale = sum(seconds for _, seconds in speeds) / expected
    group, token, context = prior
    fit = Fit((group * scale, token * scale, context * scale))
    for shape, seconds in speeds:
        fit.learn(_parts(shape), seconds)
    return fit


def step_target(cost: CostModel, capabilities: Capabilities) -> float:
    """The step target of a machine: seconds that suit both streams and prompts.

    It is the time of rows in half of the slots, and of the shortest chunk that keeps
    SPEED_KEPT of a lone prompt's speed between such rows, within TARGET_MIN and TARGET_MAX.
    The chunk begins behind a fourth of a slot's context: deeper, tokens take longer.
    """
    chunk, start = capabilities.chunk, capabilities.context // 4
    rows = cost.rows_seconds(max(capabilities.slots // 2, 1))
    slowest = cost.chunk_seconds(chunk, start) / chunk / SPEED_KEPT
    steps = ((n, rows + cost.chunk_seconds(n, start)) for n in range(capabilities.chunk_min, chunk))
    fast = (step for length, step in steps if step <= slowest * length)
    target = next(fast, rows + cost.chunk_seconds(chunk, start))
    return min(max(target, TARGET_MIN), TARGET_MAX)


def _parts(shape: Shape) -> Parts:
    """What a call's seconds are spent on."""
    return shape.groups, shape.tokens, shape.context


def _transferred(operations: Iterable[Operation]) -> Parts:
    """Operations that move tokens, the tokens that are copied, and those saved or restored."""
    moving = [one for one in operations if isinstance(one, Copy | Save | Restore)]
    copied = sum(one.tokens for one in moving if isinstance(one, Copy))
    return len(moving), copied, sum(one.tokens for one in moving) - copied
