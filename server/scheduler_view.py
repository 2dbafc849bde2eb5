"""What a scheduler looks like from outside."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable

from llm_serving_engine.scheduler.errors import RequestError, Unavailable
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Step, StepResult
from llm_serving_engine.server.encoding import encode_seconds
from llm_serving_engine.server.model import ServedModel
from llm_serving_engine.v1 import generation_pb2, operations_pb2

RATE_WINDOW_SECONDS = 10
PRIORITIES = {
    Priority.LOW: generation_pb2.PRIORITY_LOW,
    Priority.NORMAL: generation_pb2.PRIORITY_NORMAL,
    Priority.HIGH: generation_pb2.PRIORITY_HIGH,
    Priority.CRITICAL: generation_pb2.PRIORITY_CRITICAL,
}
_SLOT_STATES = {
    State.PREFILL: operations_pb2.SLOT_STATE_PREFILL,
    State.DECODE: operations_pb2.SLOT_STATE_DECODE,
}


class SchedulerView:
    """An Observer that remembers what only steps and ends tell; the rest is read."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps = 0
        self._last: tuple[Step, StepResult] | None = None
        self._outcomes: Counter[str] = Counter()
        # Tokens by whole second, the newest last: bounded by the window.
        self._rate: deque[tuple[int, int]] = deque(maxlen=RATE_WINDOW_SECONDS + 1)

    def transitioned(self, sequence: Sequence) -> None:
        """Count an end."""
        if sequence.state.ended:
            self._outcomes[sequence.state.value] += 1

    def refused(self, request: Request, error: RequestError) -> None:
        """Count a refusal."""
        self._outcomes["refused"] += 1

    def stepped(self, step: Step, result: StepResult) -> None:
        """Remember the step."""
        self._steps += 1
        self._last = step, result
        second = int(self._clock())
        if self._rate and self._rate[-1][0] == second:
            self._rate[-1] = second, self._rate[-1][1] + len(result.tokens)
        else:
            self._rate.append((second, len(result.tokens)))

    def read(self, model: ServedModel) -> operations_pb2.SchedulerState:
        """The state now. Raises Unavailable before the model is loaded."""
        if model.loaded_engine is None:
            raise Unavailable(f"model {model.name!r} is loading")
        scheduler = model.loaded_engine.scheduler
        state = operations_pb2.SchedulerState(
            model=model.name,
            queues=[
                operations_pb2.QueueState(
                    priority=PRIORITIES[priority],
                    requests=scheduler.queue.of_class(priority).requests,
                    tokens=scheduler.queue.of_class(priority).tokens,
                )
                for priority in sorted(Priority, reverse=True)
            ],
            slots=[_slot(slot.index, slot.holder) for slot in scheduler.slots],
            tokens_per_second=self._tokens_per_second(),
            outcomes=self._outcomes,
        )
        state.time.GetCurrentTime()
        if self._last is not None:
            state.last_step.CopyFrom(self._step_state(*self._last))
        return state

    def _step_state(self, step: Step, result: StepResult) -> operations_pb2.StepState:
        return operations_pb2.StepState(
            number=self._steps,
            decode_rows=len(step.decodes),
            prefill_tokens=step.prefill_tokens,
            duration=encode_seconds(result.duration),
        )

    def _tokens_per_second(self) -> float:
        """Over the last whole seconds of the window: the one under way is not complete."""
        now = int(self._clock())
        window = range(now - RATE_WINDOW_SECONDS, now)
        return sum(tokens for second, tokens in self._rate if second in window) / len(window)


def _slot(index: int, holder: Sequence | None) -> operations_pb2.Slot:
    if holder is None:
        return operations_pb2.Slot(index=index, state=operations_pb2.SLOT_STATE_FREE)
    return operations_pb2.Slot(
        index=index,
        state=_SLOT_STATES[holder.state],
        request_id=holder.request.id,
        priority=PRIORITIES[holder.request.priority],
        tokens=holder.computed,
        completion_tokens=len(holder.output),
        tenant=holder.request.tenant,
    )
