"""The scheduler: every decision about requests, as a function of what it has been told.

It has no clock, no thread, no I/O, and no randomness: time comes in as an
argument, decisions go out as a `Step`, and what happened to requests goes out
as events. One step is under way at a time:

    submit, cancel, finish ...   at any time
    schedule(now) -> Step        what to do next
    apply(result, now)           what came of it
    take_events() -> events      what it all meant for the requests, in order
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import NamedTuple

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.deadlines import Deadlines
from llm_serving_engine.scheduler.errors import (
    Cancelled,
    DeadlinePassed,
    InvalidField,
    LimitReached,
    RequestError,
    RunnerFailed,
)
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.prefill import plan_prefill
from llm_serving_engine.scheduler.queue import WaitingQueue
from llm_serving_engine.scheduler.request import FinishReason, Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition
from llm_serving_engine.scheduler.slots import SlotTable
from llm_serving_engine.scheduler.step import (
    CacheOperation,
    Capabilities,
    ClearSlot,
    DecodeRow,
    Logprobs,
    OpenSequence,
    PrefillChunk,
    SampledToken,
    Step,
    StepResult,
)

RETRY_AFTER_UNKNOWN = 1.0  # seconds, before any request has ended
RETRY_AFTER_MIN = 0.05
RETRY_AFTER_MAX = 60.0


class Moved(NamedTuple):
    """A sequence changed its state. It may have gone on since, in the same step."""

    sequence: Sequence
    transition: Transition


class Produced(NamedTuple):
    """A sequence has one more token."""

    sequence: Sequence
    token: int
    logprobs: Logprobs | None


SchedulerEvent = Moved | Produced


class Scheduler:
    """Decides who runs, and what each step does."""

    def __init__(self, capabilities: Capabilities, config: SchedulerConfig | None = None) -> None:
        self.capabilities = capabilities
        self.config = config or SchedulerConfig()
        self.queue = WaitingQueue()
        self.slots = SlotTable(capabilities.sequences_max)
        self.outcomes: Counter[State] = Counter()
        self._sequences: dict[str, Sequence] = {}
        self._deadlines = Deadlines()
        self._numbers = itertools.count(1)
        self._under_way: dict[int, Sequence] | None = None
        self._events: list[SchedulerEvent] = []
        self._seconds_per_request: float | None = None

    # What callers say

    def submit(self, request: Request, now: float) -> Sequence:
        """Put a request into the queue.

        Raises:
            LimitReached: The queue is full, in requests or in tokens.
            InvalidField: The prompt leaves no room in the context.
            DeadlinePassed: The deadline is already over.
            ValueError: A request of that id is alive: a bug of the caller.
        """
        if request.id in self._sequences:
            raise ValueError(f"request {request.id} is already here")
        self._check_limits(request)
        if request.deadline is not None and request.deadline <= now:
            raise DeadlinePassed(
                DeadlinePassed.DEADLINE_UNREACHABLE, "the deadline had passed on arrival"
            )
        sequence = Sequence(request, [Transition(State.WAITING, now)])
        self._sequences[request.id] = sequence
        self.queue.append(sequence)
        if request.deadline is not None:
            self._deadlines.add(request.id, request.deadline)
        self._events.append(Moved(sequence, sequence.history[-1]))
        return sequence

    def cancel(
        self,
        request_id: str,
        now: float,
        *,
        error: RequestError | None = None,
        expired: bool = False,
    ) -> None:
        """End a request that nobody wants any more; one that has ended is left alone.

        With `error` it FAILS with that error. Without, it is EXPIRED where its
        deadline has passed or the caller says so, else CANCELLED.
        """
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return
        deadline = sequence.request.deadline
        if error is not None:
            self._end(sequence, Event.FAIL, now, error)
        elif expired or (deadline is not None and deadline <= now):
            self._expire(sequence, now)
        else:
            self._end(sequence, Event.CANCEL, now, Cancelled("the caller cancelled"))

    def finish(self, request_id: str, now: float, output_tokens: int) -> None:
        """End a request successfully: its first `output_tokens` tokens hold a stop sequence."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return
        del sequence.output[output_tokens:]
        self._finish(sequence, FinishReason.STOP_SEQUENCE, now)

    # Steps

    def schedule(self, now: float) -> Step:
        """Decide the next step. Empty where there is nothing to do.

        Raises:
            RuntimeError: The step before is still under way.
        """
        if self._under_way is not None:
            raise RuntimeError("a step is under way")
        self._expire_overdue(now)
        operations, opens = self._admit(now)
        decodes = tuple(
            self._decode_row(sequence) for sequence in self.slots if sequence.state is State.DECODE
        )
        prefills = self._plan_prefill(len(decodes))
        step = Step(next(self._numbers), operations, opens, prefills, decodes)
        if not step.empty:
            self._under_way = self._holders(step)
        return step

    def apply(self, result: StepResult, now: float) -> None:
        """Take in what the step brought. What came for requests ended meanwhile is dropped."""
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            raise RuntimeError("no step is under way")
        for failure in result.failures:
            sequence = under_way.get(failure.slot)
            if sequence is not None and self.slots[failure.slot] is sequence:
                self._end(sequence, Event.FAIL, now, RunnerFailed(failure.reason))
        for sampled in result.tokens:
            sequence = under_way.get(sampled.slot)
            if sequence is not None and self.slots[sampled.slot] is sequence:
                self._take_token(sequence, sampled, now)

    def runner_lost(self, now: float) -> None:
        """The runner died with all its slots: what ran goes back to the head of the queue."""
        self._under_way = None
        # Each goes before the one handled before it, so the latest comes first.
        for sequence in sorted(self.slots, key=lambda s: (s.arrived_at, s.slot), reverse=True):
            sequence.runner_losses += 1
            if sequence.runner_losses > self.config.runner_losses_max:
                error = RunnerFailed(
                    "the model's runner failed repeatedly while it ran this request"
                )
                self._end(sequence, Event.FAIL, now, error)
            else:
                self._preempt(sequence, now)

    def take_events(self) -> list[SchedulerEvent]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    # What there is to see

    @property
    def idle(self) -> bool:
        """Whether no request is alive."""
        return not self._sequences

    def get(self, request_id: str) -> Sequence | None:
        """The live request of that id."""
        return self._sequences.get(request_id)

    def live(self) -> tuple[Sequence, ...]:
        """All requests that have not ended."""
        return tuple(self._sequences.values())

    @property
    def retry_after(self) -> float:
        """Seconds until a slot is expected to fall free, from what requests took so far."""
        if self._seconds_per_request is None:
            return RETRY_AFTER_UNKNOWN
        expected = self._seconds_per_request / len(self.slots)
        return min(max(expected, RETRY_AFTER_MIN), RETRY_AFTER_MAX)

    # Admission

    def _check_limits(self, request: Request) -> None:
        context = self.capabilities.context_per_sequence
        if len(request.prompt) >= context:
            raise InvalidField(
                "prompt",
                f"{len(request.prompt)} tokens leave no room in the context of {context}",
            )
        if len(self.queue) >= self.config.queue_requests_max:
            raise LimitReached(
                "queue.requests",
                f"the queue is full: {self.config.queue_requests_max} requests wait",
                self.retry_after,
            )
        if self.queue.tokens + request.tokens > self.config.queue_tokens_max:
            raise LimitReached(
                "queue.tokens",
                f"the queue is full: the requests that wait may take {self.queue.tokens} tokens, "
                f"this one {request.tokens}, and the limit is {self.config.queue_tokens_max}",
                self.retry_after,
            )

    def _admit(self, now: float) -> tuple[tuple[CacheOperation, ...], tuple[OpenSequence, ...]]:
        operations: list[CacheOperation] = []
        opens: list[OpenSequence] = []
        while not self.slots.full and (sequence := self.queue.first()) is not None:
            self.queue.remove(sequence)
            slot = self.slots.take(sequence)
            self._move(sequence, Event.ADMIT, now)
            operations.append(ClearSlot(slot))
            opens.append(self._open(sequence, slot))
        return tuple(operations), tuple(opens)

    def _open(self, sequence: Sequence, slot: int) -> OpenSequence:
        request = sequence.request
        prompt = request.prompt if request.sampling.penalised else ()
        return OpenSequence(
            slot, request.sampling, request.top_logprobs, prompt, tuple(sequence.output)
        )

    # The parts of a step

    def _decode_row(self, sequence: Sequence) -> DecodeRow:
        assert sequence.slot is not None
        position = sequence.computed
        sequence.computed += 1
        return DecodeRow(sequence.slot, position, sequence.token(position))

    def _plan_prefill(self, decode_rows: int) -> tuple[PrefillChunk, ...]:
        config = self.config
        budget = (
            config.prefill_tokens_max_while_decoding if decode_rows else config.prefill_tokens_max
        )
        prefilling = (sequence for sequence in self.slots if sequence.state is State.PREFILL)
        in_order = sorted(prefilling, key=lambda s: (-s.request.priority, s.arrived_at))
        chunks = []
        for sequence, chunk in plan_prefill(in_order, budget, self.capabilities.prefill_unit):
            sequence.computed += len(chunk.tokens)
            chunks.append(chunk)
        return tuple(chunks)

    def _holders(self, step: Step) -> dict[int, Sequence]:
        slots = {chunk.slot for chunk in step.prefills} | {row.slot for row in step.decodes}
        return {slot: holder for slot in slots if (holder := self.slots[slot]) is not None}

    # Results

    def _take_token(self, sequence: Sequence, sampled: SampledToken, now: float) -> None:
        if sequence.state is State.PREFILL:
            self._move(sequence, Event.FIRST_TOKEN, now)
        if sequence.first_token_at is None:
            sequence.first_token_at = now
        sequence.last_token_at = now
        if sampled.token in sequence.request.stop_tokens:
            self._finish(sequence, FinishReason.END_OF_SEQUENCE, now)
            return
        sequence.output.append(sampled.token)
        self._events.append(Produced(sequence, sampled.token, sampled.logprobs))
        if len(sequence.output) >= sequence.request.max_tokens:
            self._finish(sequence, FinishReason.MAX_TOKENS, now)
        elif sequence.known_tokens >= self.capabilities.context_per_sequence:
            self._finish(sequence, FinishReason.CONTEXT_LENGTH, now)

    # Ends

    def _finish(self, sequence: Sequence, reason: FinishReason, now: float) -> None:
        sequence.finish_reason = reason
        self._leave(sequence, Event.FINISH, now)
        self._learn_service_time(sequence)

    def _end(self, sequence: Sequence, event: Event, now: float, error: RequestError) -> None:
        sequence.error = error
        self._leave(sequence, event, now)

    def _leave(self, sequence: Sequence, event: Event, now: float) -> None:
        if sequence.state.running:
            self.slots.release(sequence)
        else:
            self.queue.remove(sequence)
        del self._sequences[sequence.request.id]
        self._deadlines.discard(sequence.request.id)
        self._move(sequence, event, now)
        self.outcomes[sequence.state] += 1

    def _preempt(self, sequence: Sequence, now: float) -> None:
        self.slots.release(sequence)
        sequence.computed = 0
        sequence.preemptions += 1
        self._move(sequence, Event.PREEMPT, now)
        self.queue.push_front(sequence)

    def _expire_overdue(self, now: float) -> None:
        for request_id in self._deadlines.pop_overdue(now):
            self._expire(self._sequences[request_id], now)

    def _expire(self, sequence: Sequence, now: float) -> None:
        if len(sequence.history) == 1:
            reason, where = DeadlinePassed.QUEUE_TIMEOUT, "while the request waited in the queue"
        else:
            reason, where = DeadlinePassed.RUNNING_TIMEOUT, "before the answer was complete"
        error = DeadlinePassed(reason, f"the deadline passed {where}")
        self._end(sequence, Event.EXPIRE, now, error)

    def _move(self, sequence: Sequence, event: Event, now: float) -> None:
        sequence.advance(event, now)
        self._events.append(Moved(sequence, sequence.history[-1]))

    def _learn_service_time(self, sequence: Sequence) -> None:
        took = sequence.seconds_in(State.PREFILL) + sequence.seconds_in(State.DECODE)
        before = self._seconds_per_request
        self._seconds_per_request = took if before is None else before + 0.1 * (took - before)
