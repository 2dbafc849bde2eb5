"""The runs of one step: either a row of each stream, or a chunk of prompts.

T is the step target. While streams run, one chunk goes after each rows step, so
prefill always progresses, and more where no stream waits longer than it may for the
prompt that is next:

- 2 T for a prompt of which at most a chunk is computed and one is left;
- 2 T for a prompt of a higher class than all streams;
- 2 T for one of three prompts or more of its class that have slots or had them beside it;
- T for any other.

Where a higher class may arrive, a chunk and a rows step take at most T together: the
newcomer's own chunk waits for no more than the one and then the other.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from llm_serving_engine.scheduler.part import Common, Part
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.slots import count_groups
from llm_serving_engine.scheduler.step import FOLLOW, Output, Run, shape_of_runs

# The figures here are ratios to those with the value below, by
# tests/benchmarks/scheduler_constants.py with the costs of a small model and of a large one.
# Step targets that streams wait at most. With 1 the p99 first token is 1.18 (small) and 1.27
# (large) in steady of 16.
STRETCH = 2
# Prompts with slots from which on streams wait for so long. With 2 no load changes by 0.02; with
# two live clients of 400 words the longest gap was 272 ms, not 181 (bench, Q4_0). Without it the
# median first token is 1.04 (small), and the p99 1.03 (large), in long of 16.
PROMPTS_MANY = 3
# The part of that time that a chunk beside streams takes, and of the step target at least. With
# 0.5 tokens/s are 0.97 and the p99 first token is 1.07 in long of 16 (large). With 1.0 they are
# 0.96 to 1.00, and the median first token is 1.05 in chat of 8 (small).
CHUNK_SHARE = 0.75
# What is planned of it: calls take up to 1.15 of what is expected of them. With 1.0 tokens/s
# are 0.97 to 1.02, and gaps are up to 2.02 targets though no call takes longer.
GAP_SHARE = 0.85
# Prompts that differ by less than this part of the step target count as equally long. With
# 0.001 tokens/s are 0.95 (small) and 0.92 (large) in long of 16, whose prompts differ by two
# tokens: rows are in several groups. With 1.0 the median first token is 1.10 in churn of 8.
ORDER_SHARE = 0.05
# A prompt's rest of so many chunks is not cut in two: 129 to 160 tokens are one chunk of 128 and
# its end. No load of many requests changes with 1.0 or 1.5. With 1.5 the worst gap beside 900
# words was 171 ms, not 123 (bench, Q4_0).
END_SHARE = 1.25


class Window(NamedTuple):
    """When the next step comes.

    Attributes:
        now: The time.
        begins: When the steps in flight are expected to be done.
        after_rows: Whether the step before it is a rows step.
        urgent: The highest class that may arrive: one of which a request came lately. Chunks
            of lower classes leave time for rows within the target, and keep to it even while
            nobody streams.
    """

    now: float
    begins: float
    after_rows: bool
    urgent: int = 0


class Limit(NamedTuple):
    """How long a chunk may take, in seconds.

    Attributes:
        seconds: Any chunk.
        tile: One of a tile's tokens, and one that takes the end of a prompt along.
    """

    seconds: float
    tile: float


class Planner(Part):
    """Plans the runs of steps."""

    def __init__(self, common: Common) -> None:
        super().__init__(common)
        self._delivery = min(self._config.delivery_seconds, self._target / 2)
        self._invariant = self._config.determinism == "batch_invariant"

    def plan(self, window: Window) -> tuple[Run, ...]:
        """The runs of the next step; empty where there is nothing to do.

        A sequence with one token to compute is a stream, and one with more is a prompt. Before
        the runs are made, a stream may be moved to where rows are dense.
        """
        rests = {s: self._rest(s) for s in self._cache.holders()}
        streams = [s for s, rest in rests.items() if rest == 1]
        prompts = [s for s, rest in rests.items() if rest > 1]
        self._totals.moves += self._cache.compact(streams, window.now)
        rows = tuple(self._run(s, 1) for s in self._cache.holders() if rests[s] == 1)
        if not prompts:
            return rows
        first = self._first(prompts, [run.slot for run in rows], window.now)
        urgent = window.urgent > first.request.priority
        if not (rows or urgent):
            return self._join(first, prompts, Limit(math.inf, math.inf))
        longer = self._is_worth_waiting(first, prompts, streams)
        wait_max = (STRETCH if longer else 1) * self._target
        rows_seconds = self._cost.predict(shape_of_runs(rows))
        limit = self._limit(wait_max, rows_seconds, urgent=urgent)
        chunk = self._join(first, prompts, limit)
        if window.after_rows or not rows:
            return chunk
        if any(s.request.priority > first.request.priority for s in streams):
            return rows
        wait = self._wait(streams, window)
        wait += self._cost.predict(shape_of_runs(chunk)) + rows_seconds
        return chunk if wait <= GAP_SHARE * wait_max else rows

    def calls(self, runs: tuple[Run, ...], window: Window) -> int:
        """How many calls a step of those runs is: of rows several, while no prompt is computed.

        A stream's tokens then come a few at a time, and less is spent around each call:
        what the server and its clients do takes a core from the threads that compute.
        After a chunk, for which streams have waited, it is one call.
        """
        shape, running = shape_of_runs(runs), list(self._cache.holders())
        # Rows of several groups wait to be moved together, which several calls would delay.
        dense = shape.rows and shape.groups == 1 and all(run.output for run in runs)
        if not window.after_rows or len(runs) < len(running) or not dense:
            return 1
        room = min(self._room(sequence) for sequence in running)
        calls = range(min(self._can.calls_max, room), 1, -1)
        seconds = self._cost.predict(shape)
        return next((n for n in calls if 0 < n * seconds <= self._delivery), 1)

    # How long streams wait

    def _is_worth_waiting(
        self, first: Sequence, prompts: list[Sequence], streams: list[Sequence]
    ) -> bool:
        """Whether streams wait for STRETCH targets for the prompt that is next."""
        return (
            self._is_short(first)
            or all(first.request.priority > s.request.priority for s in streams)
            or self._together(first, prompts, streams) >= PROMPTS_MANY
        )

    def _is_short(self, sequence: Sequence) -> bool:
        """Whether of a prompt at most a chunk is computed and one is left, as in chats."""
        cached = sequence.cached_prompt_tokens
        computed = 0 if cached is None else self._cache.position(sequence) - cached
        return max(computed, self._rest(sequence) / END_SHARE) <= self._can.chunk

    @staticmethod
    def _together(first: Sequence, prompts: list[Sequence], streams: list[Sequence]) -> int:
        """Count the prompts that have slots, with those that were computed while it waited."""
        waited_for = (
            s
            for s in streams
            if s.arrived_at <= first.arrived_at and (s.first_token_at or 0.0) > first.since
        )
        priority = first.request.priority
        return sum(s.request.priority == priority for s in (*prompts, *waited_for))

    def _limit(self, wait_max: float, rows_seconds: float, *, urgent: bool) -> Limit:
        """How long a chunk may take beside streams.

        Where a higher class may arrive, the chunk leaves time for the rows: the newcomer waits
        for the chunk, and then for the rows if streams would wait too long for it otherwise.
        """
        beside = rows_seconds + self._cost.operations(self._cache.operations)
        if urgent:
            most = self._target - beside
            return Limit(most, most)
        rest = GAP_SHARE * wait_max - beside
        most = max(CHUNK_SHARE * self._target, min(CHUNK_SHARE * wait_max, rest))
        return Limit(most, max(most, self._target))

    def _wait(self, streams: list[Sequence], window: Window) -> float:
        """How long some stream will have waited when the next call begins."""
        draws = self._cache.outlook.draws
        last = (window.begins if draws[s.key] else s.last_token_at or s.since for s in streams)
        return window.begins + self._cost.operations(self._cache.operations) - min(last)

    # Chunks

    def _first(self, prompts: list[Sequence], slots: list[int], now: float) -> Sequence:
        """The prompt that is next: of the highest class, that with the least left to wait for.

        That is how long its rest takes less how long it has had its slot: short prompts
        go first, and a long one goes before those that come when it has waited for as
        long as it takes. Of those that are about equal, the first is one whose row will
        be beside those of the streams, which are in `slots`.
        """
        highest = max(s.request.priority for s in prompts)
        turns = {
            s: self._rest_seconds(s) - (now - s.since)
            for s in prompts
            if s.request.priority == highest
        }
        latest = min(turns.values()) + ORDER_SHARE * self._target
        equal = {s.slot: s for s, turn in turns.items() if turn <= latest and s.slot is not None}
        return equal[min(equal, key=lambda slot: (count_groups(sorted((*slots, slot))), slot))]

    def _rest_seconds(self, sequence: Sequence) -> float:
        """How long the rest of a prompt takes."""
        position = self._cache.position(sequence)
        return self._cost.prefill_seconds(position, sequence.known_tokens, self._can.chunk)

    def _length(self, sequence: Sequence, limit: Limit) -> int:
        """Tokens of a sequence's next chunk."""
        start, rest = self._cache.position(sequence), self._rest(sequence)
        if self._invariant:
            return self._aligned(len(sequence.request.prompt), start, rest)
        chunk, tile = self._can.chunk, self._can.tile
        least = min(self._can.chunk_min, chunk)
        lengths = (min(max(chunk >> halved, least), rest) for halved in range(4))
        # A tile may take all of the step target: with llama.cpp, 64 tokens behind 448 go at 950
        # tokens/s, and 32 at 695. If it may not, the first token of a prompt of 1,200 comes after
        # 1.02 (small) and 1.13 (large).
        limits = ((x, limit.seconds if x > tile else limit.tile) for x in lengths)
        fitting = (x for x, seconds in limits if self._cost.chunk_seconds(x, start) <= seconds)
        length = next(fitting, min(least, rest))
        # A prompt's end is not left for a call of its own where it can go along.
        end_too = rest <= min(END_SHARE * length, self._can.call_tokens_max)
        fits = self._cost.chunk_seconds(rest, start) <= limit.tile
        return rest if end_too and fits else length

    def _aligned(self, prompt: int, start: int, rest: int) -> int:
        """The same cuts whatever else runs: units of the prompt, and output in less than a tile."""
        if start < prompt:
            return min(self._can.chunk - start % self._can.chunk, prompt - start)
        parts = -(-rest // min(max(self._can.tile // 2, 1), self._can.call_tokens_max))
        return -(-rest // parts)

    def _join(self, first: Sequence, prompts: list[Sequence], limit: Limit) -> tuple[Run, ...]:
        """The chunk of a sequence, and those in the slots after it that can go along.

        They are of its class and of about its length. A first token does not wait for
        prompts that go on.
        """
        lengths = {first: self._length(first, limit)}
        ends = lengths[first] == self._rest(first)
        slots = {sequence.slot: sequence for sequence in prompts}
        assert first.slot is not None
        for slot in range(first.slot + 1, self._can.slots):
            neighbour = slots.get(slot)
            if neighbour is None or neighbour.request.priority != first.request.priority:
                break
            length = self._joined_length(neighbour, lengths[first], ends, limit)
            if not self._joins({**lengths, neighbour: length}, limit.seconds):
                break
            lengths[neighbour] = length
        return tuple(self._run(s, length) for s, length in lengths.items())

    def _joined_length(self, sequence: Sequence, length: int, ends: bool, limit: Limit) -> int:
        """Tokens of a neighbour's chunk: like the first one's, or its end."""
        if self._invariant:
            return self._length(sequence, limit)
        rest = self._rest(sequence)
        return rest if ends or rest <= length + self._can.padding else length

    def _joins(self, lengths: dict[Sequence, int], seconds_max: float) -> bool:
        shortest, longest = min(lengths.values()), max(lengths.values())
        padded = longest * len(lengths)
        if not self._can.joins or shortest < 2 or longest - shortest > self._can.padding:
            return False
        room = min(self._cache.position(s) + longest <= self._can.context for s in lengths)
        runs = [self._run(s, n) for s, n in lengths.items()]
        seconds = self._cost.predict(shape_of_runs(runs))
        return room and padded <= self._can.call_tokens_max and seconds <= seconds_max

    # Sequences

    def _run(self, sequence: Sequence, length: int) -> Run:
        assert sequence.slot is not None
        start = self._cache.position(sequence)
        stop, known = start + length, sequence.known_tokens
        tokens = (FOLLOW,) if start >= known else sequence.tokens(start, stop)
        output = Output.NONE
        if stop >= known:
            output = Output.SAMPLE
            if sequence.request.top_logprobs is not None:
                output |= Output.LOGPROBS
        return Run(sequence.key, sequence.slot, start, tokens, output=output)

    def _rest(self, sequence: Sequence) -> int:
        """Tokens that are to be computed; 0 where what is in flight ends the request."""
        if self._room(sequence) <= 0:
            return 0
        tokens = sequence.known_tokens + self._cache.outlook.draws[sequence.key]
        return tokens - self._cache.position(sequence)

    def _room(self, sequence: Sequence) -> int:
        """How many tokens a sequence can have drawn, beyond those in flight."""
        request = sequence.request
        most = min(request.max_tokens, self._can.context - len(request.prompt))
        return most - len(sequence.output) - self._cache.outlook.draws[sequence.key]
