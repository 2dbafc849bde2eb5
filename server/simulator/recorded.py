"""Reads the recorded times of a trace, to compare with a replay."""

from __future__ import annotations

from collections.abc import Iterable

from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.server.simulator.replay import Outcome
from llm_serving_engine.server.simulator.replay_report import Summary, summary
from llm_serving_engine.server.simulator.trace import TraceRecord


def recorded_outcomes(records: Iterable[TraceRecord]) -> list[Outcome]:
    """Return the outcomes of requests with a token; the trace omits whether one ended early."""
    return [
        Outcome(
            record,
            State.FINISHED,
            first_token_seconds=record.first_token_seconds,
            output_token_seconds=_between(record),
            output_tokens=record.output_tokens,
            in_time=record.deadline is None or (record.seconds or 0.0) <= record.deadline,
        )
        for record in records
        if record.first_token_seconds is not None
    ]


def recorded_summary(records: Iterable[TraceRecord]) -> Summary | None:
    """Return their summary; None if the trace has no recorded times."""
    outcomes = recorded_outcomes(records)
    if not outcomes:
        return None
    begin = min(outcome.record.at for outcome in outcomes)
    end = max(outcome.record.at + (outcome.record.seconds or 0.0) for outcome in outcomes)
    return summary(outcomes, end - begin)


def _between(record: TraceRecord) -> float | None:
    """Seconds between its tokens, as a mean; a stop token ended it below `max_tokens`."""
    gaps = record.output_tokens - (record.output_tokens == record.max_tokens)
    if record.first_token_seconds is None or record.seconds is None or gaps < 1:
        return None
    return (record.seconds - record.first_token_seconds) / gaps
