"""Holds a runner's results against the steps that it was asked for."""

from __future__ import annotations

from llm_serving_engine.scheduler.step import Output, Run, RunResult, Step, StepResult


def fault_of(step: Step, result: StepResult) -> str | None:
    """Say what is wrong with a result; None where it answers the step."""
    number = step.number
    if result.number != number:
        return f"the result of step {result.number} came for step {number}"
    if result.recalled:
        return None
    if [outcome.key for outcome in result.runs] != [run.key for run in step.runs]:
        return f"the result of step {number} has not the runs that were asked for"
    for run, outcome in zip(step.runs, result.runs, strict=True):
        if fault := _fault_of_run(run, outcome):
            return f"the result of step {number}, sequence {run.key}: {fault}"
    if any(not 0 <= index < len(step.operations) for index in result.failed):
        return f"the result of step {number} names operations that were not asked for"
    return None


def _fault_of_run(run: Run, outcome: RunResult) -> str | None:
    if not 0 <= outcome.done <= len(run.tokens):
        return f"{outcome.done} of {len(run.tokens)} tokens are done"
    wants = bool(run.output & Output.SAMPLE)
    complete = outcome.done == len(run.tokens)
    if wants and complete and not outcome.tokens:
        return "the token is missing"
    if outcome.tokens and not (wants and complete):
        return "it has a token that was not asked for"
    if bool(outcome.logprobs) != bool(outcome.tokens and run.output & Output.LOGPROBS):
        return "its log-probabilities are not those that were asked for"
    return None
