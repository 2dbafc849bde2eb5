"""Checks a runner's results against their steps."""

from __future__ import annotations

from llm_serving_engine.scheduler.step import Output, Run, RunResult, Step, StepResult


def fault_of(step: Step, result: StepResult) -> str | None:
    """Return the fault of a result; None if it fits its step."""
    number = step.number
    if result.number != number:
        return f"the result of step {result.number} came for step {number}"
    if result.recalled:
        return None
    if [outcome.key for outcome in result.runs] != [run.key for run in step.runs]:
        return f"the result of step {number} has not the runs that were asked for"
    for run, outcome in zip(step.runs, result.runs, strict=True):
        if fault := _fault_of_run(run, outcome, step.calls):
            return f"the result of step {number}, sequence {run.key}: {fault}"
    if any(not 0 <= index < len(step.operations) for index in result.failed):
        return f"the result of step {number} names operations that were not asked for"
    return None


def _fault_of_run(run: Run, outcome: RunResult, calls: int) -> str | None:
    most = len(run.tokens) + calls - 1
    if not 0 <= outcome.done <= most:
        return f"{outcome.done} of {most} tokens are done"
    complete = outcome.done - len(run.tokens) + 1
    wanted = max(complete, 0) if run.output & Output.SAMPLE else 0
    if len(outcome.tokens) < wanted:
        return "the token is missing"
    if len(outcome.tokens) > wanted:
        return "it has a token that was not asked for"
    if len(outcome.logprobs) != (wanted if run.output & Output.LOGPROBS else 0):
        return "its log-probabilities are not those that were asked for"
    return None
