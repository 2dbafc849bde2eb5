"""Finds requests of a trace that continue the answer to another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from llm_serving_engine.server.simulator.trace import TraceRecord


class Previous(NamedTuple):
    """The request whose answer another one contains, and the delay from its end."""

    number: int
    pause: float


def previous_turns(records: Sequence[TraceRecord]) -> Mapping[int, Previous]:
    """Map each request whose prompt contains an answer to the request of that answer.

    A prompt that contains an answer was sent after it, so it comes later where the
    answer does. That is known of answers whose end was recorded.
    """
    first: dict[str, int] = {}
    for number in sorted(range(len(records)), key=lambda n: _end(records[n])):
        for name in records[number].prefix:
            first.setdefault(name, number)
    turns = {}
    for number, record in enumerate(records):
        answers = [
            first[name]
            for name, end in record.prefix.items()
            if min(end, record.prompt_tokens) > records[first[name]].prompt_tokens
        ]
        before = [n for n in answers if _end(records[n]) <= record.at]
        if before:
            last = max(before, key=lambda n: _end(records[n]))
            turns[number] = Previous(last, record.at - _end(records[last]))
    return turns


def _end(record: TraceRecord) -> float:
    return float("inf") if record.seconds is None else record.at + record.seconds
