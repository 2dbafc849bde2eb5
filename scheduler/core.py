"""The scheduler: every decision about requests, as a function of what it has been told.

It has no clock, no thread, no I/O, and no randomness: time comes in as an argument,
decisions go out as steps, and what happened to requests goes out as events.

    submit, cancel, finish        at any time
    schedule(now) -> Step | None  what to do next; the runner has two steps at most
    recall(now) -> number | None  the queued step, where a newcomer should go first
    apply(result, now)            what came of the oldest step in flight
    runner_lost(now)              nothing will come of the steps in flight
    take_events() -> events       what it all meant for the requests, in order

Progress is confirmed by `apply`, and by nothing else. What is planned beyond that is
derived from the steps in flight (`Outlook`).
"""

from __future__ import annotations

import itertools

from llm_serving_engine.scheduler.admission import Admission
from llm_serving_engine.scheduler.cache import Cache
from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.cost import CostModel, step_target
from llm_serving_engine.scheduler.dispatch import Dispatch
from llm_serving_engine.scheduler.errors import (
    Cancelled,
    RequestError,
    RequestFailed,
    RunnerFailed,
)
from llm_serving_engine.scheduler.events import Begun, Produced, SchedulerEvent, Totals
from llm_serving_engine.scheduler.guarded_policy import GuardedPolicy
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.live import LiveRequests
from llm_serving_engine.scheduler.part import Common
from llm_serving_engine.scheduler.planner import Planner, Window
from llm_serving_engine.scheduler.policies.fair import FairPolicy
from llm_serving_engine.scheduler.policy import Policy, load_policy
from llm_serving_engine.scheduler.queue import WaitingQueue
from llm_serving_engine.scheduler.request import FinishReason, Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import (
    FOLLOW,
    Capabilities,
    Drop,
    Logprobs,
    Run,
    RunResult,
    Step,
    StepResult,
)
from llm_serving_engine.scheduler.suspects import Suspects

# Steps that a runner has: one that it computes, and one that is queued.
STEPS_MAX = 2
# How often a request's cache may fail to be copied or restored.
CACHE_LOSSES_MAX = 2


class Scheduler:
    """Decides who runs, and what each step does."""

    def __init__(
        self,
        capabilities: Capabilities,
        config: SchedulerConfig | None = None,
        policy: Policy | None = None,
    ) -> None:
        """Begin with nothing to do. Raises ValueError where the configured policy is unknown."""
        self.capabilities = can = capabilities
        self.config = config = config or SchedulerConfig()
        self.cost = cost = CostModel(can.speeds)
        self.step_target = target = config.step_target_seconds or step_target(cost, can)
        policy = policy or load_policy(config.policy, config)
        if type(policy) is not FairPolicy:
            policy = GuardedPolicy(policy, config)
        self.policy = policy
        self.queue = queue = WaitingQueue(policy.line)
        self.cache = cache = Cache(can, config, cost)
        self.totals = totals = Totals()
        self.suspects = Suspects(config.runner_losses_max)
        common = Common(can, config, cost, target, policy, queue, cache, totals)
        self.admission = Admission(common)
        self._live = LiveRequests(common, self.admission, self.suspects)
        self.dispatch = Dispatch(common, self._live, self.admission)
        self._planner = Planner(common)
        # When the oldest step in flight began, and the number of the one that is called back.
        self._began = 0.0
        self._recalled = 0
        self._last_step = Step(0)

    # What callers say

    def submit(self, request: Request, now: float) -> Sequence:
        """Put a request into the queue.

        Raises:
            LimitReached: The queue is full, or the tenant's share of it.
            InvalidField: The prompt leaves no room in the context.
            DeadlinePassed: The deadline is over, or cannot be met.
        """
        return self._live.arrive(request, now)

    def cancel(
        self, key: int, now: float, *, error: RequestError | None = None, expired: bool = False
    ) -> None:
        """End a request that is not wanted any more; one that has ended is left alone.

        With `error` it FAILS with that error. Without, it is EXPIRED where its
        deadline has passed or the caller says so, else CANCELLED.
        """
        sequence = self.get(key)
        if sequence is None:
            return
        if error is not None:
            self._live.end(sequence, Event.FAIL, now, error)
        elif expired or sequence.request.deadline <= now:
            self._live.expire(sequence, now)
        else:
            self._live.end(sequence, Event.CANCEL, now, Cancelled("the caller cancelled"))

    def finish(self, key: int, now: float, output_tokens: int) -> None:
        """End a request successfully: its first `output_tokens` tokens hold a stop sequence."""
        sequence = self.get(key)
        if sequence is not None:
            self._live.finish(sequence, FinishReason.STOP_SEQUENCE, now)
            del sequence.output[output_tokens:]

    # Steps

    def schedule(self, now: float) -> Step | None:
        """Decide the next step; None where there is none to send now."""
        flights = self.cache.flights
        if len(flights) >= STEPS_MAX or self._recalled or (flights and self.suspects):
            return None
        self._live.expire_overdue(now)
        self.dispatch.admit(now)
        window = self._window(now)
        runs = self._planner.plan(window)
        if not runs and (flights or not self._must_operate()):
            return None
        level = max((self._live.by_key[run.key].request.priority for run in runs), default=0)
        for run in runs:
            self._begin(self._live.by_key[run.key], run.start)
        if not flights:
            self._began = now
        return self.cache.send(runs, level, self._planner.calls(runs, window))

    def recall(self, now: float) -> int | None:
        """The number of the queued step, where a request that waits should go before it.

        The runner may have begun it already; its result says whether it was recalled.
        """
        flights = self.cache.flights
        if len(flights) < STEPS_MAX or self._recalled or self.suspects:
            return None
        first = self.dispatch.first(now)
        if first is None or first.request.priority < flights[-1].level:
            return None
        if not self.cache.idle_slots() and self.dispatch.victim(first) is None:
            return None
        self._recalled = flights[-1].number
        return self._recalled

    def apply(self, result: StepResult, now: float) -> None:
        """Take in what came of the oldest step in flight.

        What it brought for requests that ended meanwhile is dropped.
        """
        step = self.cache.landed(result)
        self._began = now
        if step.number == self._recalled:
            self._recalled = 0
        if result.recalled:
            return
        self._learn(step, result)
        for index, operation in enumerate(step.operations):
            loser = self.cache.confirm(operation, index in result.failed)
            if loser is not None:
                self._lose_cache(loser, now)
        for run, outcome in zip(step.runs, result.runs, strict=True):
            self._apply_run(run, outcome, now)
        self._last_step = step

    def runner_lost(self, now: float, *, outside: bool = False) -> None:
        """Send what ran back to the head of the queue: the runner died with all its slots.

        With `outside`, no request can have caused that; else those that ran are suspected.
        """
        self._recalled = 0
        running = sorted(self.cache.holders(), key=lambda s: -s.request.priority)
        for sequence in running:
            self._live.vacate(sequence, Event.LOSE, 0, now)
        self.cache.lose()
        if outside:
            return
        for key in self.suspects.lost({s.key: len(s.output) for s in running}):
            error = RequestFailed(RequestFailed.KILLS_RUNNER, "the request makes its runner die")
            self._live.end(self._live.by_key[key], Event.FAIL, now, error)

    def take_events(self) -> list[SchedulerEvent]:
        """What happened since the last call, in order."""
        events, self._live.events = self._live.events, []
        return events

    # What there is to see

    @property
    def idle(self) -> bool:
        """Whether no request is alive."""
        return not self._live.by_key

    def get(self, key: int) -> Sequence | None:
        """The live request of that key."""
        return self._live.by_key.get(key)

    def live(self) -> tuple[Sequence, ...]:
        """All requests that have not ended."""
        return tuple(self._live.by_key.values())

    # Time

    def _window(self, now: float) -> Window:
        # The queued step begins when the one before it is done, not when that was expected.
        busy = sum(
            self.cost.operations(step.operations) + step.calls * self.cost.predict(step.shape)
            for step in self.cache.flights
        )
        begins = max(self._began + busy, now)
        last = self.cache.flights[-1] if self.cache.flights else self._last_step
        return Window(now, begins, bool(last.runs) and last.rows, self.dispatch.urgent(now))

    def _must_operate(self) -> bool:
        """Whether operations are sent without runs: only snapshots hold much memory."""
        return any(isinstance(operation, Drop) for operation in self.cache.operations)

    def _learn(self, step: Step, result: StepResult) -> None:
        self.cost.learn(result.shape or step.shape, result.seconds / result.calls)
        done = [o for i, o in enumerate(step.operations) if i not in result.failed]
        self.cost.learn_operations(done, result.operation_seconds)

    # What comes of a step

    def _lose_cache(self, sequence: Sequence, now: float) -> None:
        sequence.cache_losses += 1
        if not sequence.output:
            sequence.cached_prompt_tokens = 0
        if sequence.cache_losses > CACHE_LOSSES_MAX:
            error = RunnerFailed("the runner could not keep the request's cache")
            self._live.end(sequence, Event.FAIL, now, error)

    def _apply_run(self, run: Run, outcome: RunResult, now: float) -> None:
        committed = self.cache.commit(run, outcome.done, outcome.error is not None)
        sequence = self.get(run.key)
        if sequence is None:
            return
        if outcome.error is not None:
            code, description = outcome.code, outcome.error
            error = RequestFailed(code, description) if code else RunnerFailed(description)
            self._live.end(sequence, Event.FAIL, now, error)
        elif committed and outcome.tokens and run.end == sequence.known_tokens:
            for token, logprobs in itertools.zip_longest(outcome.tokens, outcome.logprobs):
                if not sequence.state.ended:
                    self._take_token(sequence, token, logprobs, now)
        elif committed and not outcome.done and run.tokens != (FOLLOW,):
            self._lose_cache(sequence, now)

    def _begin(self, sequence: Sequence, cached: int) -> None:
        """Settle what a sequence found in the cache, once: its computing begins."""
        if sequence.cached_prompt_tokens is not None:
            return
        sequence.cached_prompt_tokens = cached
        self.totals.prefix_hits += cached > 0
        self.totals.prefix_tokens += cached
        self._live.events.append(Begun(sequence))

    def _take_token(
        self, sequence: Sequence, token: int, logprobs: Logprobs | None, now: float
    ) -> None:
        if sequence.state is State.PREFILL:
            self._live.move(sequence, Event.FIRST_TOKEN, now)
        if sequence.first_token_at is None:
            sequence.first_token_at = now
        sequence.last_token_at = now
        self.policy.served(sequence, 0, 1)
        if (ended := sequence.request.ended_by(token)) is not None:
            sequence.stop_token = token
            self._live.finish(sequence, ended, now)
            return
        sequence.output.append(token)
        self.suspects.progressed(sequence.key, len(sequence.output))
        self._live.events.append(Produced(sequence, token, logprobs))
        if len(sequence.output) >= sequence.request.max_tokens:
            self._live.finish(sequence, FinishReason.MAX_TOKENS, now)
        elif sequence.known_tokens >= self.capabilities.context:
            self._live.finish(sequence, FinishReason.CONTEXT_LENGTH, now)
