"""Whatever happens in whatever order, the scheduler's data agree and every answer is right.

Arrivals, cancels, ends, recalls that come in time or too late, failing operations, failing
runs, and dying runners, at random, against the scripted model. It checks each step against
the contract, and its answers are known. INVARIANT_EXAMPLES sets how many runs there are.
"""

from __future__ import annotations

import math
import os
import random
from collections import Counter, deque

import invariants
import pytest
from unreliable_backend import UnreliableBackend

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.follow import Follower
from llm_serving_engine.backends.scripted import (
    CACHE_BYTES_PER_TOKEN,
    END_OF_SEQUENCE,
    next_token,
)
from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.errors import RequestError, RunnerFailed, Unavailable
from llm_serving_engine.scheduler.events import Begun, Moved, Produced
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import FinishReason, Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Close, Open, Step, StepResult

CONTEXT = 120
EXAMPLES = int(os.environ.get("INVARIANT_EXAMPLES", "1500"))
PARTS = 5


class Run:
    """One scheduler, one runner, and callers that do anything at any time."""

    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(seed)
        self.slots = dice.randint(1, 6)
        self.reliable = dice.random() < 0.6
        self.backend = self._new_backend()
        rollback = None if dice.random() < 0.7 else 0
        self.capabilities = self.backend.report.capabilities._replace(
            chunk=dice.choice([8, 16, 64]),
            rollback=rollback,
            copy=dice.random() < 0.8,
            snapshots=dice.random() < 0.8,
            joins=rollback is None and dice.random() < 0.7,
            calls_max=dice.choice([1, 2, 8]),
        )
        self._use(self.backend)
        self.config = SchedulerConfig(
            queue_requests_max=dice.choice([3, 256]),
            queue_tokens_max=dice.choice([300, 1_000_000]),
            tenant_queue_share=dice.choice([0.5, 1.0]),
            aging_seconds=dice.choice([0.3, 120.0]),
            step_target_seconds=dice.choice([None, 0.03, 0.2]),
            snapshot_bytes_max=dice.choice([0, 100 * CACHE_BYTES_PER_TOKEN, 10**9]),
            prefix_cache=dice.random() < 0.8,
            determinism=dice.choice(["fast", "batch_invariant"]),
            runner_losses_max=dice.choice([1, 2, 3]),
        )
        self.scheduler = Scheduler(self.capabilities, self.config)
        self.now = 0.0
        self.sent: deque[Step] = deque()
        self.recalled: set[int] = set()
        self.submitted = self.refused = 0
        self.ends: Counter[int] = Counter()
        self.produced: dict[int, list[int]] = {}
        self.sequences: dict[int, Sequence] = {}
        self.seen: Counter[str] = Counter()

    def _new_backend(self) -> UnreliableBackend:
        config = BackendConfig(sequences=self.slots, context_per_sequence=CONTEXT)
        backend = UnreliableBackend(config, self.dice)
        if not self.reliable:
            backend.operation_failures = self.dice.choice([0.0, 0.1, 0.5])
            backend.run_failures = self.dice.choice([0.0, 0.0, 0.05])
        return backend

    def _use(self, backend: UnreliableBackend) -> None:
        backend.report = backend.report._replace(capabilities=self.capabilities)
        self.backend = backend
        self.follower = Follower(backend.execute, lambda: self.dice.random() < 0.1)

    def go(self, turns: int) -> None:
        """Do anything for some turns, then let all that is there come to its end."""
        for _ in range(turns):
            self.now += self.dice.choice([0.0, 0.001, 0.02, 0.3])
            self._act()
            self._look()
        for _ in range(20_000):
            self.now += 0.01
            self._send()
            self._look()
            if not self.sent:
                break
            self._deliver()
            self._look()
        invariants.check_end(self.scheduler)
        self._check_answers()

    def _act(self) -> None:
        do = self.dice.random()
        if do < 0.2:
            self._submit()
        elif do < 0.24:
            self._end_one()
        elif do < 0.25 and self.dice.random() < 0.3:
            self._lose_runner()
        elif do < 0.6:
            self._send()
        elif self.sent:
            self._deliver()

    def _submit(self) -> None:
        dice = self.dice
        group = random.Random(dice.randrange(2))
        common = [group.randrange(256) for _ in range(dice.choice([0, 0, 20, 50, 100]))]
        rest = [dice.randrange(256) for _ in range(dice.randint(1, 30))]
        request = Request(
            "an id need not be unique",
            tuple(common + rest),
            dice.choice([1, 2, 5, 20, 60]),
            stop_tokens=frozenset({END_OF_SEQUENCE, dice.randrange(256)}),
            top_logprobs=dice.choice([None, 2]),
            priority=dice.choice(list(Priority)),
            tenant=dice.choice("AB"),
            cache_salt=dice.choice(["", "", "s"]),
            deadline=dice.choice([math.inf, math.inf, self.now + dice.uniform(0.01, 4)]),
        )
        self.submitted += 1
        try:
            self.scheduler.submit(request, self.now)
        except RequestError:
            self.refused += 1
            return
        number = self.scheduler.recall(self.now)
        if number is not None and dice.random() < 0.7:
            self.recalled.add(number)

    def _end_one(self) -> None:
        live = self.scheduler.live()
        if not live:
            return
        sequence = self.dice.choice(live)
        how = self.dice.randrange(3)
        if how == 0:
            self.scheduler.cancel(sequence.key, self.now)
        elif how == 1:
            self.scheduler.cancel(sequence.key, self.now, error=Unavailable("doomed"))
        elif sequence.output:
            self.scheduler.finish(
                sequence.key, self.now, self.dice.randint(1, len(sequence.output))
            )

    def _lose_runner(self) -> None:
        self.scheduler.runner_lost(self.now, outside=self.dice.random() < 0.7)
        self.sent.clear()
        self.recalled.clear()
        self._use(self._new_backend())
        self.seen["losses"] += 1

    def _send(self) -> None:
        step = self.scheduler.schedule(self.now)
        if step is not None:
            invariants.check_step(self.scheduler, step)
            self.sent.append(step)

    def _deliver(self) -> None:
        step = self.sent.popleft()
        if step.number in self.recalled:
            result = StepResult(step.number, recalled=True)
            self.seen["recalled"] += 1
        else:
            result = self.follower.execute(step)._replace(seconds=0.01)
            self.seen["failed"] += len(result.failed)
            self.seen["several calls"] += result.calls > 1
            self.seen["cut short"] += 1 < result.calls < step.calls
            self.seen["joined"] += len(step.runs) > 1 and not step.rows
        self.scheduler.apply(result, self.now)

    def _look(self) -> None:
        """Check everything that holds between two calls."""
        invariants.check(self.scheduler)
        if not self.sent:
            lengths = [slot.length for slot in self.scheduler.cache.slots]
            assert lengths == [len(cache) for cache in self.backend.caches]
        for event in self.scheduler.take_events():
            sequence = event.sequence
            assert not self.ends[sequence.key], "something came after the end"
            self.sequences[sequence.key] = sequence
            if isinstance(event, Moved):
                self.ends[sequence.key] += event.transition.state.ended
            elif isinstance(event, Begun):
                assert sequence.key not in self.produced
                assert 0 <= (sequence.cached_prompt_tokens or 0) < len(sequence.request.prompt)
            elif isinstance(event, Produced):
                self.produced.setdefault(sequence.key, []).append(event.token)
                assert (event.logprobs is None) is (sequence.request.top_logprobs is None)

    def _check_answers(self) -> None:
        assert set(self.ends.values()) <= {1}
        assert sum(self.ends.values()) + self.refused == self.submitted
        # The next step would close what is open.
        left = self.scheduler.cache.operations
        assert {type(operation) for operation in left} <= {Open, Close}
        closed = {operation.key for operation in left if isinstance(operation, Close)}
        assert set(self.backend.keys) <= closed
        assert self.backend.snapshots == {}
        for key, sequence in self.sequences.items():
            tokens = list(sequence.request.prompt)
            for token in self.produced.get(key, []):
                assert token == next_token(tokens)
                tokens.append(token)
            if sequence.state is State.FINISHED:
                self._check_finish(sequence, tokens)
            if self.reliable:
                assert not isinstance(sequence.error, RunnerFailed)
            self.seen[sequence.state.value] += 1
        for name in ("preemptions", "saves", "moves", "prefix_hits"):
            self.seen[name] += getattr(self.scheduler.totals, name)

    def _check_finish(self, sequence: Sequence, tokens: list[int]) -> None:
        request, output = sequence.request, sequence.output
        if sequence.finish_reason is FinishReason.END_OF_SEQUENCE:
            assert next_token(tokens) in request.stop_tokens
        elif sequence.finish_reason is FinishReason.MAX_TOKENS:
            assert len(output) == request.max_tokens
        elif sequence.finish_reason is FinishReason.CONTEXT_LENGTH:
            assert sequence.known_tokens == CONTEXT


@pytest.mark.parametrize("part", range(PARTS))
def test_any_order_of_anything(part: int) -> None:
    seen: Counter[str] = Counter()
    each = EXAMPLES // PARTS
    for seed in range(part * each, (part + 1) * each):
        run = Run(seed)
        try:
            run.go(random.Random(seed).choice([20, 80, 200]))
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
        seen += run.seen
    # What never happens is not tested.
    expected = {"losses", "recalled", "failed", "joined", "preemptions", "saves", "moves"}
    expected |= {"several calls", "cut short", "prefix_hits", "finished", "cancelled", "expired"}
    assert expected <= set(+seen), seen
