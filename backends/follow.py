"""Fills in the tokens of steps that were planned before those tokens were known."""

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
    """Replaces FOLLOW by the token that the key drew last.

    Backends see known tokens only. A run that has nothing to follow is skipped:
    its key drew a stop token, or drew nothing because its run was refused.
    """

    def __init__(
        self,
        execute: Callable[[Step], StepResult],
        recalling: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wrap a backend's `execute`.

        Args:
            execute: Does a step of one call.
            recalling: Whether a step is called back: asked between two calls.
        """
        self._execute = execute
        self._recalling = recalling
        self._stop_tokens: dict[int, frozenset[int]] = {}
        self._drawn: dict[int, int] = {}

    def execute(self, step: Step) -> StepResult:
        """Do a step. The result has an entry for each run, skipped ones included."""
        result = self._call(step)
        for _ in range(step.calls - 1):
            more = _continued(step, result)
            if not any(map(self._known, more.runs)) or self._recalling():
                break
            result = _joined(result, self._call(more))
        return result

    def _call(self, step: Step) -> StepResult:
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


def _continued(step: Step, result: StepResult) -> Step:
    """The rows that go on after those calls."""
    runs = (
        run._replace(start=run.start + outcome.done, tokens=(FOLLOW,))
        for run, outcome in zip(step.runs, result.runs, strict=True)
    )
    return Step(step.number, runs=tuple(runs))


def _joined(result: StepResult, last: StepResult) -> StepResult:
    """Return the joined result of all calls, including the last one."""
    runs = tuple(
        RunResult(
            one.key,
            one.done + more.done,
            one.tokens + more.tokens,
            one.logprobs + more.logprobs,
            error=one.error or more.error,
            code=one.code or more.code,
        )
        for one, more in zip(result.runs, last.runs, strict=True)
    )
    seconds = result.seconds + last.seconds
    return result._replace(runs=runs, seconds=seconds, calls=result.calls + 1)
