"""Fits the simulator's costs to a server's step times.

All calls count alike, from the first to the last: the scheduler's own costs follow the
newest ones, to notice when the machine slows down.
"""

from __future__ import annotations

from llm_serving_engine.scheduler.cost import (
    CHUNKS,
    FIRST_UNCERTAINTY,
    ROWS,
    CostModel,
    Weights,
)
from llm_serving_engine.scheduler.step import FOLLOW, Shape, Step, StepResult, shape_of
from llm_serving_engine.server.simulator.costs import Costs
from llm_serving_engine.server.simulator.slowdown import Slowdown, Spells


class StepTimes:
    """Adds up what steps took."""

    def __init__(self) -> None:
        self._rows, self._chunks = LeastSquares(), LeastSquares()
        self._handovers, self._handover_seconds = 0, 0.0
        self._done_at = 0.0
        self._spells = Spells()

    def add(self, step: Step, result: StepResult, now: float) -> None:
        """Add a completed step.

        Args:
            step: What was asked.
            result: What came of it.
            now: When it was done, in seconds from the beginning.
        """
        took = result.seconds + result.operation_seconds
        if any(run.tokens == (FOLLOW,) for run in step.runs):
            # It was queued while the step before it was computed: the runner did not wait.
            self._handovers += 1
            self._handover_seconds += now - self._done_at - took
        self._done_at = now
        done = {run.key for run in result.runs if run.done}
        runs = (run for run in step.runs if run.key in done)
        shape = shape_of((run.slot, run.start, len(run.tokens)) for run in runs)
        if done and result.seconds > 0:
            self.add_call(shape, result.seconds / result.calls)
            self._spells.add(now, shape, result.calls, result.seconds)

    def add_call(self, shape: Shape, seconds: float) -> None:
        """Take in what a call took: more than 0 seconds."""
        (self._rows if shape.rows else self._chunks).add(shape, seconds)

    def costs(self, learned: CostModel) -> Costs:
        """Return the fitted costs, with those of operations as the scheduler learned them."""
        calls = (*self._rows.weights(ROWS), *self._chunks.weights(CHUNKS))
        return Costs(*calls, *learned.transfers.weights)

    def slowdown(self, costs: Costs) -> Slowdown:
        """What steps took over time, in ratios to those costs."""
        return self._spells.slowdown(costs)

    @property
    def handover_seconds(self) -> float:
        """The mean time of a step beside its calls and operations."""
        return max(self._handover_seconds, 0.0) / max(self._handovers, 1)


class LeastSquares:
    """Fits the costs of a call's groups, tokens, and context to calls.

    What counts is by what part a call differs from its prediction.
    """

    def __init__(self) -> None:
        self._products = [[0.0] * 3 for _ in range(3)]
        self._sums = [0.0] * 3

    def add(self, shape: Shape, seconds: float) -> None:
        """Take in a call that took some seconds, more than 0."""
        parts = [part / seconds for part in (shape.groups, shape.tokens, shape.context)]
        for i, part in enumerate(parts):
            self._sums[i] += part
            for j, other in enumerate(parts):
                self._products[i][j] += part * other

    def weights(self, prior: Weights) -> Weights:
        """The costs in seconds, none of them negative.

        Args:
            prior: Costs of another machine, whose proportions decide what no calls tell.
        """
        prior, fitted = self._scaled(prior), [0, 1, 2]
        while True:
            found = self._solve(fitted, prior)
            if min(found) >= 0:
                return found
            fitted.remove(min(fitted, key=found.__getitem__))

    def _scaled(self, prior: Weights) -> Weights:
        """Costs of another machine, as if this one were only faster or slower."""
        pull = sum(weight * total for weight, total in zip(prior, self._sums, strict=True))
        square = sum(prior[i] * prior[j] * self._products[i][j] for i in range(3) for j in range(3))
        scale = pull / square if square else 1.0
        group, token, context = (scale * weight for weight in prior)
        return group, token, context

    def _solve(self, fitted: list[int], prior: Weights) -> Weights:
        """The best costs of some of the parts, by elimination; the others cost nothing."""
        table = []
        for i in fitted:
            trust = 1 / (FIRST_UNCERTAINTY * prior[i]) ** 2
            row = [self._products[i][j] + trust * (i == j) for j in fitted]
            table.append([*row, self._sums[i] + trust * prior[i]])
        for i, row in enumerate(table):
            row[:] = [value / row[i] for value in row]
            for other in table:
                if other is not row:
                    other[:] = [v - other[i] * own for v, own in zip(other, row, strict=True)]
        found = dict(zip(fitted, (row[-1] for row in table), strict=True))
        group, token, context = (found.get(i, 0.0) for i in range(3))
        return group, token, context
