"""Holds a runner's results against the steps that it was asked for."""

from __future__ import annotations

from llm_serving_engine.scheduler.step import FOLLOW, Step, StepResult


def fault_of(step: Step, result: StepResult, before: StepResult | None) -> str | None:
    """Say what is wrong with a result; None where it answers the step.

    Args:
        step: What was asked.
        result: What came.
        before: The result of the step before: rows that follow a token which it
            does not have are left out.
    """
    if result.number != step.number:
        return f"the result of step {result.number} came for step {step.number}"
    failed = {failure.slot for failure in result.failures}
    sampled = [token.slot for token in result.tokens]
    follows = {token.slot for token in before.tokens} if before is not None else set()
    rows = {row.slot for row in step.decodes if row.token != FOLLOW or row.slot in follows}
    expected = (rows | {chunk.slot for chunk in step.prefills if chunk.sample}) - failed
    if missing := expected - set(sampled):
        return f"the result of step {step.number} lacks the token of slot {min(missing)}"
    if len(sampled) != len(set(sampled)) or not set(sampled) <= expected:
        return f"the result of step {step.number} has tokens that were not asked for"
    return None
