"""The scheduler: every decision about requests, as a function of what it has been told.

It has no clock, no thread, no I/O, and no randomness: time comes in as an
argument, decisions go out as a `Step`, and what happened to requests goes out
as events. Steps are done one after the other:

    submit, cancel, finish ...   at any time
    schedule(now) -> Step        what to do next
    schedule_ahead(now) -> Step  what to do after that, where it is certain already
    apply(result, now)           what came of it
    take_events() -> events      what it all meant for the requests, in order
"""

from __future__ import annotations

import itertools

from llm_serving_engine.scheduler.admission import Admission
from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.cost import CostModel, Speed
from llm_serving_engine.scheduler.deadlines import Deadlines
from llm_serving_engine.scheduler.errors import (
    Cancelled,
    DeadlinePassed,
    RequestError,
    RequestFailed,
    slot_error,
)
from llm_serving_engine.scheduler.events import Begun, Moved, Produced, SchedulerEvent
from llm_serving_engine.scheduler.guarded_policy import guarded
from llm_serving_engine.scheduler.in_flight import InFlight
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.lookahead import rows_ahead
from llm_serving_engine.scheduler.placement import Place, Placement
from llm_serving_engine.scheduler.planner import StepPlanner
from llm_serving_engine.scheduler.policy import Policy, load_policy
from llm_serving_engine.scheduler.preemption import Preemption
from llm_serving_engine.scheduler.queue import WaitingQueue
from llm_serving_engine.scheduler.request import FinishReason, Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition
from llm_serving_engine.scheduler.slots import SlotTable
from llm_serving_engine.scheduler.step import (
    CacheOperation,
    Capabilities,
    SampledToken,
    Step,
    StepResult,
)
from llm_serving_engine.scheduler.suspects import Suspects
from llm_serving_engine.scheduler.tally import Tally


class Scheduler:
    """Decides who runs, and what each step does."""

    def __init__(
        self,
        capabilities: Capabilities,
        config: SchedulerConfig | None = None,
        policy: Policy | None = None,
    ) -> None:
        """Begin with nothing to do. Raises ValueError where the configured policy is unknown."""
        self.capabilities = capabilities
        self.config = config or SchedulerConfig()
        policy = policy or load_policy(self.config.policy, self.config)
        self.policy = guarded(policy, self.config)
        self.queue = WaitingQueue(self.policy)
        self.slots = SlotTable(capabilities.sequences_max)
        self.cost = CostModel(Speed.of(capabilities))
        self.tally = Tally()
        self.suspects = Suspects(self.config.runner_losses_max)
        self.admission = Admission(self.config, self.queue, self.slots, self.cost)
        self.preemption = Preemption(capabilities, self.config, self.cost, self.policy)
        self._placement = Placement(self.slots, capabilities, self.config, self.cost)
        self._sequences: dict[str, Sequence] = {}
        self._deadlines = Deadlines()
        self._numbers = itertools.count(1)
        self._under_way: InFlight | None = None
        self._ahead: InFlight | None = None
        self._events: list[SchedulerEvent] = []
        # Whether rows were left out of the last step: it was the prompts' turn.
        self._rows_wait = False
        # For the next step, whatever else it does.
        self._operations: list[CacheOperation] = []

    # What callers say

    def submit(self, request: Request, now: float) -> Sequence:
        """Put a request into the queue.

        Raises:
            LimitReached: The queue is full, or the tenant's share of it, or
                its quota is spent.
            InvalidField: The prompt leaves no room in the context.
            DeadlinePassed: The deadline is over, or cannot be met.
            ValueError: A request of that id is alive: a bug of the caller.
        """
        if request.id in self._sequences:
            raise ValueError(f"request {request.id} is already here")
        self.admission.check(request, self.capabilities.context_per_sequence, now)
        sequence = Sequence(request, [Transition(State.WAITING, now)])
        self._sequences[request.id] = sequence
        self.queue.add(sequence)
        self.policy.submitted(sequence)
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
        self._finish(sequence, FinishReason.STOP_SEQUENCE, now)
        del sequence.output[output_tokens:]

    # Steps

    def schedule(self, now: float) -> Step:
        """Decide the next step. Empty where there is nothing to do.

        Raises:
            RuntimeError: The step before is still under way.
        """
        if self._under_way is not None:
            raise RuntimeError("a step is under way")
        self._expire_overdue(now)
        planner = StepPlanner(
            self.slots, self._placement, self.policy, self.cost, self.capabilities, self.config
        )
        self._admit(planner, now)
        planner.share_prefixes(now)
        self.tally.moves += planner.compact(now)
        planner.compute(now, rows_wait=self._rows_wait)
        self._rows_wait = planner.rows_wait
        for sequence, chunk in planner.planned:
            self._begin(sequence, chunk.position)
        operations, self._operations = (*self._operations, *planner.operations), []
        chunks = tuple(chunk for _, chunk in planner.planned)
        step = Step(next(self._numbers), operations, tuple(planner.opens), chunks, planner.rows)
        if not step.empty:
            self._under_way = InFlight.of(step, self.slots, self.preemption)
        return step

    def schedule_ahead(self, now: float) -> Step | None:
        """The step after the one under way, where that is certain without its result.

        So the runner waits for nobody. It is where all who run decode, and
        nobody who waits could get a slot. Whose output turns out to be complete
        has computed a row for nothing.
        """
        self._expire_overdue(now)
        if not self._under_way or self._ahead or self._operations:
            return None
        if self.suspects or self._may_admit():
            return None
        rows = rows_ahead(self._under_way.step, self.slots.holders(), self.capabilities)
        if not rows:
            return None
        step = Step(self._under_way.step.number + 1, decodes=rows)
        ahead = InFlight.of(step, self.slots, self.preemption)
        if self.cost.predict(ahead.shape) > self.config.ahead_step_seconds_max:
            return None
        next(self._numbers)
        for sequence in self.slots.holders():
            sequence.computed += 1
        self._ahead = ahead
        return step

    def apply(self, result: StepResult, now: float) -> None:
        """Take in what the step brought. What came for requests ended meanwhile is dropped."""
        under_way, self._under_way, self._ahead = self._under_way, self._ahead, None
        if under_way is None:
            raise RuntimeError("no step is under way")
        self.cost.learn(under_way.shape, result.duration)
        for failure in result.failures:
            self._fail_slot(failure.slot, under_way, slot_error(failure.code, failure.reason), now)
        for sampled in result.tokens:
            sequence = under_way.holders.get(sampled.slot)
            if sequence is not None and sequence.slot == sampled.slot:
                self._take_token(sequence, sampled, now)

    def runner_lost(self, now: float, *, outside: bool = False) -> None:
        """Send what ran back to the head of the queue: the runner died with all its slots.

        With `outside`, no request can have caused that; else those that ran are suspected.
        """
        self._under_way = self._ahead = None
        self._operations.clear()
        self.preemption.forget()
        for sequence in self.queue:
            sequence.saved = None
        running = sorted(self.slots.holders(), key=lambda s: -s.request.priority)
        for sequence in running:
            sequence.runner_losses += 1
            self._vacate(sequence, now)
        self.slots.forget()
        if outside:
            return
        for request_id in self.suspects.lost({s.request.id: len(s.output) for s in running}):
            error = RequestFailed(RequestFailed.KILLS_RUNNER, "the request makes its runner die")
            self._end(self._sequences[request_id], Event.FAIL, now, error)

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
        """Seconds after which a refused request should be tried again."""
        return self.admission.retry_after

    # Who gets a slot

    def _admit(self, planner: StepPlanner, now: float) -> None:
        """Fill the slots: none stays idle while a request waits, trials of suspects aside."""
        if self.suspects:
            self._try_suspect(planner, now)
            return
        while self._may_admit() and (sequence := self.queue.first(now)) is not None:
            place = self._placement.place(sequence)
            if place is None:
                victim = self.preemption.victim(sequence, self.slots.holders(), now)
                if victim is None:
                    return
                self._preempt(victim, planner, now)
                place = self._placement.place(sequence)
            self._take_place(sequence, place, planner, now)

    def _try_suspect(self, planner: StepPlanner, now: float) -> None:
        """Run the suspect that is next, and nothing beside it."""
        suspect = self._sequences[self.suspects.next or ""]
        for passed in [holder for holder in self.slots.holders() if holder is not suspect]:
            self._preempt(passed, planner, now)
        if suspect.slot is None:
            self._take_place(suspect, self._placement.place(suspect), planner, now)

    def _take_place(
        self, sequence: Sequence, place: Place | None, planner: StepPlanner, now: float
    ) -> None:
        assert place is not None
        self.queue.remove(sequence)
        self.slots.take(place.slot, sequence)
        planner.operations.extend(place.operations)
        sequence.computed = place.tokens
        sequence.sharing = place.sharing
        sequence.donor, sequence.shared = place.donor, place.shared
        sequence.output_on_admission = len(sequence.output)
        if len(sequence.history) == 1:
            found = max(sequence.computed, sequence.shared)
            self.policy.served(sequence, len(sequence.request.prompt) - found, 0)
        self.preemption.restored(sequence)
        planner.open(sequence)
        self._move(sequence, Event.ADMIT, now)

    def _may_admit(self) -> bool:
        """Whether anybody may get a slot: asked of each step, so without looking at all."""
        highest = self.queue.highest_class()
        if highest is None or self.slots.idle():
            return highest is not None
        return any(holder.request.priority < highest for holder in self.slots.holders())

    def _preempt(self, sequence: Sequence, planner: StepPlanner, now: float) -> None:
        save = self.preemption.save(sequence)
        if save is not None:
            planner.operations.append(save)
            self.tally.saves += 1
        self.tally.preemptions += 1
        self._vacate(sequence, now)

    def _vacate(self, sequence: Sequence, now: float) -> None:
        self.slots.release(sequence, now, keep=True)
        sequence.computed = 0
        sequence.donor, sequence.sharing = None, False
        sequence.preemptions += 1
        self._move(sequence, Event.PREEMPT, now)
        self.queue.add(sequence)

    def _begin(self, sequence: Sequence, cached: int) -> None:
        """The first chunk of a sequence: what it found in the cache is settled."""
        if sequence.begun:
            return
        sequence.begun = True
        sequence.cached_prompt_tokens = cached
        if cached:
            self.tally.prefix_hits += 1
            self.tally.prefix_tokens += cached
        self._events.append(Begun(sequence))

    # The step under way

    def _fail_slot(self, slot: int, under_way: InFlight, error: RequestError, now: float) -> None:
        # The runner has cleared the slot, whoever holds it by now.
        self.slots[slot].left_over = ()
        sequence = under_way.holders.get(slot)
        if sequence is not None and sequence.slot == slot:
            sequence.computed = 0
            self._end(sequence, Event.FAIL, now, error)

    def _take_token(self, sequence: Sequence, sampled: SampledToken, now: float) -> None:
        if sequence.state is State.PREFILL:
            self._move(sequence, Event.FIRST_TOKEN, now)
        if sequence.first_token_at is None:
            sequence.first_token_at = now
        sequence.last_token_at = now
        self.policy.served(sequence, 0, 1)
        if sampled.token in sequence.request.stop_tokens:
            self._finish(sequence, FinishReason.END_OF_SEQUENCE, now)
            return
        sequence.output.append(sampled.token)
        self.suspects.progressed(sequence.request.id, len(sequence.output))
        self._events.append(Produced(sequence, sampled.token, sampled.logprobs))
        if len(sequence.output) >= sequence.request.max_tokens:
            self._finish(sequence, FinishReason.MAX_TOKENS, now)
        elif sequence.known_tokens >= self.capabilities.context_per_sequence:
            self._finish(sequence, FinishReason.CONTEXT_LENGTH, now)

    # Ends

    def _finish(self, sequence: Sequence, reason: FinishReason, now: float) -> None:
        sequence.finish_reason = reason
        self._leave(sequence, Event.FINISH, now)

    def _end(self, sequence: Sequence, event: Event, now: float, error: RequestError) -> None:
        sequence.error = error
        self._leave(sequence, event, now)

    def _leave(self, sequence: Sequence, event: Event, now: float) -> None:
        if sequence.state.running:
            self.slots.release(sequence, now, keep=True)
        else:
            self.queue.remove(sequence)
        drop = self.preemption.drop(sequence)
        if drop is not None:
            self._operations.append(drop)
        sequence.donor = None
        del self._sequences[sequence.request.id]
        self._deadlines.discard(sequence.request.id)
        self.suspects.left(sequence.request.id)
        self.policy.left(sequence)
        self.admission.left(sequence, now)
        self._move(sequence, event, now)
        self.tally.outcomes[sequence.state] += 1

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
