"""Computes latency percentiles of the last finished requests."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import Priority
from llm_serving_engine.scheduler.sequence import Sequence

REQUESTS_MAX = 1000


class Percentiles(NamedTuple):
    """Percentiles of times, in seconds."""

    p50: float
    p95: float
    p99: float


class Latency(NamedTuple):
    """The times of some requests.

    Attributes:
        priority: Their class; None for requests of all classes.
        requests: How many there are, at least 1.
        first_token: From arrival to the first token.
        output_token: Per token after the first; None if no request produced two.
    """

    priority: Priority | None
    requests: int
    first_token: Percentiles
    output_token: Percentiles | None


class _Times(NamedTuple):
    priority: Priority
    first_token: float
    output_token: float | None


class Latencies:
    """Keeps the times of the last finished requests."""

    def __init__(self, requests_max: int = REQUESTS_MAX) -> None:
        self._times: deque[_Times] = deque(maxlen=requests_max)
        # Counted as they come: a stop sequence takes tokens back that took their time.
        self._produced: dict[Sequence, int] = {}

    def stepped(self) -> None:
        """Count what running requests have produced."""
        for sequence in self._produced:
            self._produced[sequence] = len(sequence.output)

    def transitioned(self, sequence: Sequence) -> None:
        """Follow a request that produces tokens, and take its times when it finishes."""
        if not sequence.state.ended:
            if sequence.first_token_at is not None:
                self._produced.setdefault(sequence, len(sequence.output))
            return
        produced = max(self._produced.pop(sequence, 0), len(sequence.output))
        first, last = sequence.first_token_at, sequence.last_token_at
        if sequence.state is not State.FINISHED or first is None or last is None:
            return
        # The token that ended it took its time too, though it is no output.
        sampled = produced + (sequence.stop_token is not None)
        each = (last - first) / (sampled - 1) if sampled > 1 else None
        request = sequence.request
        self._times.append(_Times(request.priority, first - sequence.arrived_at, each))

    def read(self) -> Iterator[Latency]:
        """Yield latencies over all classes, then by class, highest first."""
        if not self._times:
            return
        yield _latency(None, self._times)
        for priority in sorted(Priority, reverse=True):
            if times := [one for one in self._times if one.priority is priority]:
                yield _latency(priority, times)


def percentiles(values: Iterable[float]) -> Percentiles | None:
    """Return percentiles by nearest rank; None without values."""
    ranked = sorted(values)
    if not ranked:
        return None

    def at(percent: int) -> float:
        return ranked[math.ceil(percent * len(ranked) / 100) - 1]

    return Percentiles(at(50), at(95), at(99))


def _latency(priority: Priority | None, times: deque[_Times] | list[_Times]) -> Latency:
    first = percentiles(one.first_token for one in times)
    assert first is not None
    each = percentiles(one.output_token for one in times if one.output_token is not None)
    return Latency(priority, len(times), first, each)
