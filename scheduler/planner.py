"""The runs of one step: either a row of each stream, or a chunk of prompts.

T is the step target. While streams run, one chunk goes after each rows step, so
prefill always progresses, and more where the gap between two tokens of a stream
stays within T, or 2 T where a short prompt ends, three prompts or more came, or one of
a higher class computes.
"""

from __future__ import annotations

from typing import NamedTuple

from llm_serving_engine.scheduler.part import Common, Part
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.slots import count_groups
from llm_serving_engine.scheduler.step import FOLLOW, Output, Run, Shape, shape_of

# The figures here are of tests/benchmarks/scheduler_constants.py, with the costs of a small
# model and of a large one.
# Step targets between two tokens of a stream where a short prompt ends. With 1 the p99 first
# token is 1.18 (small) and 1.27 (large) in steady of 16.
STRETCH = 2
# Prompts that came together from which on streams wait for so long, too. With 2 and 4 tokens/s
# are the same within 2 %, and the p99 first token within 6 %. If streams wait for one target
# only, tokens/s are 0.96 in long of 16, and the p99 first token is 1.22 (small).
PROMPTS_MANY = 3
# The part of the step target that a chunk beside streams takes. With 0.5 tokens/s are 0.96 in
# churn of 8 (small), and the p99 first token is 1.07 in steady of 16 (large). With 1.0 they are
# the same within 3 %, and one chunk may hold streams up for all of the target.
CHUNK_SHARE = 0.75
# What is planned of a gap: calls take up to 1.15 of what is expected of them. With 1.0
# tokens/s are 0.97 to 1.04, and gaps are up to 2.04 targets though no call takes longer.
GAP_SHARE = 0.85
# Prompts that differ by less than this part of the step target count as equally long. With
# 0.001 tokens/s are 0.94 (small) and 0.87 (large) in long of 16, whose prompts differ by two
# tokens: rows are in several groups. With 1.0 the median first token is 1.10 in churn of 8.
ORDER_SHARE = 0.05
# Chunks are halved down to this: shorter ones lose too much of the kernels' speed.
CHUNK_MIN = 32
# A chunk of so many tokens may take all of the step target. Shorter ones are dear where
# attention computes whole tiles of 64: behind 448 tokens, 64 go at 950 tokens/s and 32 at 695.
CHUNK_WHOLE = 64
# Output that is computed again, under batch_invariant: few enough for the kernels
# of rows, which are other ones from 64 tokens on.
REPLAY_MAX = 32


class Window(NamedTuple):
    """When the next step comes.

    Attributes:
        now: The time.
        begins: When what is in flight is expected to be done, and the operations too.
        after_rows: Whether the step before it is a rows step.
        urgent: The highest class that may arrive. Chunks of lower classes keep to
            the target even while nobody streams.
    """

    now: float
    begins: float
    after_rows: bool
    urgent: int = 0


class Planner(Part):
    """Plans the runs of steps."""

    def __init__(self, common: Common) -> None:
        super().__init__(common)
        self._delivery = min(self._config.delivery_seconds, self._target / 2)
        self._invariant = self._config.determinism == "batch_invariant"

    def streams(self) -> list[Sequence]:
        """The sequences that have one token to compute: they make the rows."""
        return [s for s in self._cache.holders() if self._rest(s) == 1]

    def plan(self, window: Window) -> tuple[Run, ...]:
        """The runs of the next step; empty where there is nothing to do."""
        streams = self.streams()
        prompts = [s for s in self._cache.holders() if self._rest(s) > 1]
        rows = tuple(self._run(s, 1) for s in streams)
        if not prompts:
            return rows
        slots = [run.slot for run in rows]
        first = self._first(prompts, slots, window.now)
        gap_max, limit = self._limits(first, prompts, streams, rows, window)
        chunk = self._join(first, prompts, limit)
        if not streams or window.after_rows:
            return chunk
        if any(s.request.priority > first.request.priority for s in streams):
            return rows
        gap = self._gap(chunk, rows, streams, window)
        gap_max = max(gap_max, self._gap_max(chunk, prompts, streams))
        return chunk if gap <= GAP_SHARE * gap_max else rows

    def calls(self, runs: tuple[Run, ...]) -> int:
        """How many calls a step of those runs is: of rows several, while no prompt is computed.

        A stream's tokens then come a few at a time, and less is spent around each call:
        what the server and its clients do takes a core from the threads that compute.
        """
        shape, running = _shape(runs), list(self._cache.holders())
        # Rows of several groups wait to be moved together, which several calls would delay.
        dense = shape.rows and shape.groups == 1
        if self._can.calls_max == 1 or len(runs) < len(running) or not dense:
            return 1
        room = min(self._room(sequence) for sequence in running)
        calls = range(min(self._can.calls_max, room), 1, -1)
        seconds = self._cost.predict(shape)
        return next((n for n in calls if 0 < n * seconds <= self._delivery), 1)

    # A chunk or rows

    def _gap(
        self,
        chunk: tuple[Run, ...],
        rows: tuple[Run, ...],
        streams: list[Sequence],
        window: Window,
    ) -> float:
        """The longest time between two tokens of a stream, if the chunk goes before the rows."""
        steps = self._cost.predict(_shape(chunk)) + self._cost.predict(_shape(rows))
        oldest = min(self._last_token(s, window) for s in streams)
        return window.begins + steps - oldest

    def _last_token(self, stream: Sequence, window: Window) -> float:
        if self._cache.outlook.draws[stream.key]:
            return window.begins
        return stream.since if stream.last_token_at is None else stream.last_token_at

    def _gap_max(
        self, chunk: tuple[Run, ...], prompts: list[Sequence], streams: list[Sequence]
    ) -> float:
        """How long streams may wait: longer for a first token, and for a class."""
        by_key = {sequence.key: sequence for sequence in prompts}
        first = by_key[chunk[0].key]
        higher = all(first.request.priority > s.request.priority for s in streams)
        if higher or any(self._ends_short(by_key[run.key], run) for run in chunk):
            return STRETCH * self._target
        return self._target

    def _ends_short(self, sequence: Sequence, run: Run) -> bool:
        """Whether a run ends a prompt of one chunk or two, as the turns of a chat are."""
        cached = sequence.cached_prompt_tokens
        computed = 0 if cached is None else run.start - cached
        return bool(run.output) and computed <= self._can.chunk

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

    def _limits(
        self,
        first: Sequence,
        prompts: list[Sequence],
        streams: list[Sequence],
        rows: tuple[Run, ...],
        window: Window,
    ) -> tuple[float, float]:
        """Seconds that streams may wait for prompts, and that the next chunk may take."""
        target, priority = self._target, first.request.priority
        urgent = window.urgent > priority
        # The last of many that came together has waited for those that came before it.
        waited_for = (
            s
            for s in streams
            if s.arrived_at <= first.arrived_at and (s.first_token_at or 0.0) > first.since
        )
        together = sum(s.request.priority == priority for s in (*prompts, *waited_for))
        many = together >= PROMPTS_MANY
        gap_max = STRETCH * target if many and not urgent else target
        if not rows:
            return gap_max, target if urgent else float("inf")
        limit = GAP_SHARE * gap_max - self._cost.predict(_shape(rows))
        return gap_max, max(CHUNK_SHARE * target, min(CHUNK_SHARE * gap_max, limit))

    def _length(self, sequence: Sequence, limit: float) -> int:
        """Tokens of a sequence's next chunk."""
        start, rest = self._cache.position(sequence), self._rest(sequence)
        if self._invariant:
            return self._aligned(len(sequence.request.prompt), start, rest)
        chunk = self._can.chunk
        least, most = min(CHUNK_MIN, chunk), max(limit, self._target)
        lengths = (max(chunk >> halved, least) for halved in range(4))
        limits = ((x, limit if x > CHUNK_WHOLE else most) for x in lengths)
        fitting = (x for x, seconds in limits if self._cost.chunk_seconds(x, start) <= seconds)
        length = next(fitting, least)
        # A prompt's end is not left for a call of its own where it can go along.
        end_too = rest <= min(length + length // 4, self._can.call_tokens_max)
        fits = self._cost.chunk_seconds(rest, start) <= most
        return rest if rest <= length or (end_too and fits) else length

    def _aligned(self, prompt: int, start: int, rest: int) -> int:
        """The same cuts whatever else runs: whole units of the prompt, and output apart."""
        if start < prompt:
            return min(self._can.chunk - start % self._can.chunk, prompt - start)
        parts = -(-rest // REPLAY_MAX)
        return -(-rest // parts)

    def _join(self, first: Sequence, prompts: list[Sequence], limit: float) -> tuple[Run, ...]:
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
            if not self._joins({**lengths, neighbour: length}, limit):
                break
            lengths[neighbour] = length
        return tuple(self._run(s, length) for s, length in lengths.items())

    def _joined_length(self, sequence: Sequence, length: int, ends: bool, limit: float) -> int:
        """Tokens of a neighbour's chunk: like the first one's, or its end."""
        if self._invariant:
            return self._length(sequence, limit)
        rest = self._rest(sequence)
        return rest if ends or rest <= length + self._can.padding else length

    def _joins(self, lengths: dict[Sequence, int], limit: float) -> bool:
        shortest, longest = min(lengths.values()), max(lengths.values())
        padded = longest * len(lengths)
        if not self._can.joins or shortest < 2 or longest - shortest > self._can.padding:
            return False
        room = min(self._cache.position(s) + longest <= self._can.context for s in lengths)
        runs = [self._run(s, n) for s, n in lengths.items()]
        seconds = self._cost.predict(_shape(runs))
        return room and padded <= self._can.call_tokens_max and seconds <= limit

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


def _shape(runs: tuple[Run, ...] | list[Run]) -> Shape:
    return shape_of((run.slot, run.start, len(run.tokens)) for run in runs)
