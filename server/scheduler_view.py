"""Provides the scheduler's state for the operations service."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.errors import RequestError, Unavailable
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Step, StepResult
from llm_serving_engine.server.latencies import Latencies
from llm_serving_engine.server.model import ServedModel
from llm_serving_engine.server.refusals import refusal_reason
from llm_serving_engine.server.scheduler_encoding import (
    encode_latencies,
    encode_queues,
    encode_slots,
    encode_step,
    encode_tenants,
    encode_totals,
)
from llm_serving_engine.server.tenant_tokens import TenantTokens
from llm_serving_engine.v1 import operations_pb2

RATE_WINDOW_SECONDS = 10


class _Second(NamedTuple):
    """The tokens of one second of the clock."""

    second: int
    produced: int = 0
    prefilled: int = 0


class SchedulerView:
    """An Observer that remembers what only steps and ends tell; the rest is read."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps = 0
        self._last: tuple[Step, StepResult] | None = None
        self._outcomes: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._latencies = Latencies()
        self._tenants = TenantTokens()
        # The newest last: bounded by the window.
        self._rate: deque[_Second] = deque(maxlen=RATE_WINDOW_SECONDS + 1)

    def transitioned(self, sequence: Sequence) -> None:
        """Count an end."""
        self._latencies.transitioned(sequence)
        if sequence.state.ended:
            self._outcomes[sequence.state.value] += 1
            self._tenants.ended(sequence)

    def refused(self, request: Request, error: RequestError) -> None:
        """Count a refusal."""
        self._outcomes["refused"] += 1
        self._refusals[refusal_reason(error)] += 1

    def stepped(self, step: Step, result: StepResult) -> None:
        """Remember the step."""
        self._steps += 1
        self._last = step, result
        self._latencies.stepped()
        second = int(self._clock())
        newest = self._rate.pop() if self._rate else _Second(second)
        if newest.second != second:
            self._rate.append(newest)
            newest = _Second(second)
        produced = sum(len(run.tokens) for run in result.runs)
        prefilled = step.prompt_tokens
        self._rate.append(_Second(second, newest.produced + produced, newest.prefilled + prefilled))

    def read(self, model: ServedModel) -> operations_pb2.SchedulerState:
        """The state now. Raises Unavailable before the model is loaded."""
        if model.loaded_engine is None:
            raise Unavailable(f"model {model.name!r} is loading")
        state = self.read_scheduler(model.loaded_engine.scheduler)
        state.model = model.name
        return state

    def read_scheduler(self, scheduler: Scheduler) -> operations_pb2.SchedulerState:
        """The state of a scheduler now, without its model's name."""
        tenants, omitted = encode_tenants(scheduler, self._tenants)
        produced, prefilled = self._tokens_per_second()
        state = operations_pb2.SchedulerState(
            queues=encode_queues(scheduler),
            slots=encode_slots(scheduler),
            tokens_per_second=produced,
            outcomes=self._outcomes,
            policy=scheduler.config.policy,
            determinism=scheduler.config.determinism,
            tenants=tenants,
            tenants_omitted=omitted,
            totals=encode_totals(scheduler.totals),
            saved_cache_bytes=scheduler.cache.snapshot_bytes,
            saved_cache_bytes_max=scheduler.config.snapshot_bytes_max,
            prefill_tokens_per_second=prefilled,
            latencies=encode_latencies(self._latencies.read()),
            refusals=self._refusals,
        )
        state.time.GetCurrentTime()
        if self._last is not None:
            state.last_step.CopyFrom(encode_step(self._steps, *self._last, scheduler))
        return state

    def _tokens_per_second(self) -> tuple[float, float]:
        """Produced and prefilled, over the last whole seconds: this one is not complete."""
        now = int(self._clock())
        window = range(now - RATE_WINDOW_SECONDS, now)
        seconds = [one for one in self._rate if one.second in window]
        produced = sum(one.produced for one in seconds)
        prefilled = sum(one.prefilled for one in seconds)
        return produced / len(window), prefilled / len(window)
