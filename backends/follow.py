"""Steps that were planned before the tokens of the step before them were known."""

from __future__ import annotations

from collections.abc import Callable

from llm_serving_engine.scheduler.step import (
    FOLLOW,
    Close,
    Open,
    Run,
    RunResult,
    Step,
    StepResult,
)


class Follower:
    """Puts the tokens that keys drew last in the place of FOLLOW.

    Backends see known tokens only. A run that has nothing to follow is skipped:
    its key drew a stop token, or drew nothing because its run was refused.
    """

    def __init__(self, execute: Callable[[Step], StepResult]) -> None:
        self._execute = execute
        self._stop_tokens: dict[int, frozenset[int]] = {}
        self._drawn: dict[int, int] = {}

    def execute(self, step: Step) -> StepResult:
        """Do a step. The result has an entry for each run, skipped ones included."""
        self._look(step)
        runs = tuple(filter(None, map(self._known, step.runs)))
        result = self._execute(step if runs == step.runs else step._replace(runs=runs))
        for run, outcome in zip(runs, result.runs, strict=True):
            self._drawn.pop(run.key, None)
            if outcome.tokens:
                self._drawn[run.key] = outcome.tokens[-1]
        if len(runs) == len(step.runs):
            return result
        done = {outcome.key: outcome for outcome in result.runs}
        outcomes = (done.get(run.key) or RunResult(run.key, 0) for run in step.runs)
        return result._replace(runs=tuple(outcomes))

    def _look(self, step: Step) -> None:
        for operation in step.operations:
            if isinstance(operation, Open):
                self._stop_tokens[operation.key] = operation.stop_tokens
                self._drawn.pop(operation.key, None)
            elif isinstance(operation, Close):
                self._stop_tokens.pop(operation.key, None)
                self._drawn.pop(operation.key, None)

    def _known(self, run: Run) -> Run | None:
        if run.tokens != (FOLLOW,):
            return run
        token = self._drawn.get(run.key)
        if token is None or token in self._stop_tokens.get(run.key, ()):
            return None
        return run._replace(tokens=(token,))
