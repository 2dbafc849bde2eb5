"""The step contract: what the scheduler asks of a runner, and what comes back.

A step is one call of the model's library, with the cache operations before it; rows
may go on for a few calls. A runner has at most two steps: one that it computes, and
one that is queued.

- Slots are numbered from 0. A slot holds the cache of one sequence's first
  tokens; its length is their number.
- A key names a sequence in the runner, from its `Open` to its `Close`: its
  sampler, its constraint, its adapters. It does not name a slot.
- Operations come first, in their order. Then all runs are computed in one call.

Everything here is a NamedTuple, because that is the cheapest thing to pickle.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

from llm_serving_engine.scheduler.request import Sampling


class Output(enum.IntFlag):
    """What a run gives after its last token."""

    NONE = 0
    SAMPLE = 1  # the next token, drawn by the key's sampler
    LOGPROBS = 2  # its log-probability, and those of its alternatives


class Shape(NamedTuple):
    """What a call is made of, as far as it costs time.

    Attributes:
        groups: Batches that the library makes of it: runs of consecutive slots.
        runs: Sequences in it, with fillers.
        tokens: Tokens in it, with fillers. As many as runs: a rows step.
        context: Over all tokens, the thousands of tokens before each, added up.
    """

    groups: float
    runs: float
    tokens: float
    context: float

    @property
    def rows(self) -> bool:
        """Whether each sequence has one token."""
        return self.tokens <= self.runs


class Capabilities(NamedTuple):
    """What a runner can do with its model; the scheduler plans within it.

    Attributes:
        slots: Sequences that it holds at once.
        context: Tokens that a slot holds.
        chunk: Tokens of a prompt that are best computed in one call.
        call_tokens_max: Tokens of one call.
        rollback: How many tokens can be dropped from the end of a slot; None
            for any number. A slot can always be emptied.
        copy: `Copy` works.
        snapshots: `Save`, `Restore`, and `Drop` work.
        joins: Chunks of several sequences in one call.
        padding: By how many tokens joined chunks may differ in length.
        tile: Tokens of one sequence from which on a chunk is faster per token, as the
            kernels change.
        chunk_min: Tokens that chunks are cut down to: fewer take as long.
        outputs: What runs can give.
        calls_max: `Step.calls` at most.
        batch_invariant: The tokens of a sequence do not depend on the others'.
        token_bytes: Memory of one token's cache.
        state_bytes: Memory of a snapshot beside its tokens.
        speeds: Calls that were timed when the model was loaded, with their seconds.
    """

    slots: int
    context: int
    chunk: int = 64
    call_tokens_max: int = 256
    rollback: int | None = None
    copy: bool = True
    snapshots: bool = False
    joins: bool = False
    padding: int = 4
    tile: int = 64
    chunk_min: int = 32
    outputs: Output = Output.SAMPLE | Output.LOGPROBS
    calls_max: int = 1
    batch_invariant: bool = False
    token_bytes: int = 0
    state_bytes: int = 0
    speeds: tuple[tuple[Shape, float], ...] = ()


class Open(NamedTuple):
    """Begin, or begin anew, to sample for a key.

    Attributes:
        key: The sequence.
        sampling: How its tokens are drawn.
        stop_tokens: Tokens after which a FOLLOW run of the key is skipped.
        top_logprobs: Alternatives to report with each token; None for none at all.
        prompt: The prompt, where penalties count its tokens; else empty.
        output: Tokens drawn before. The sampler goes on as if it had drawn them.
        prompt_tokens: Tokens of the prompt. A backend that is batch-invariant
            computes the tokens after them, where they are computed again, to the
            bits that decoding gave.
    """

    key: int
    sampling: Sampling
    stop_tokens: frozenset[int] = frozenset()
    top_logprobs: int | None = None
    prompt: tuple[int, ...] = ()
    output: tuple[int, ...] = ()
    prompt_tokens: int = 0


class Close(NamedTuple):
    """Forget a key. Its slot keeps what it holds."""

    key: int


class Copy(NamedTuple):
    """Make the first `tokens` tokens of `source` all that `target` holds."""

    source: int
    target: int
    tokens: int


class Save(NamedTuple):
    """Save a slot, which has that many tokens, in the runner's memory as a snapshot."""

    slot: int
    snapshot: int
    tokens: int


class Restore(NamedTuple):
    """Make a snapshot, which has that many tokens, all that a slot holds. It stays."""

    slot: int
    snapshot: int
    tokens: int


class Drop(NamedTuple):
    """Forget a snapshot. One that could not be saved is none."""

    snapshot: int


Operation = Open | Close | Copy | Save | Restore | Drop

FOLLOW = -1
"""As a run's token: the one that the key drew last, in the step before."""


class Run(NamedTuple):
    """Compute consecutive tokens of one sequence.

    Attributes:
        key: The sequence; it is open.
        slot: Where its cache is.
        start: The slot's length before the run. Where the slot holds more, the
            rest is dropped first. Where it holds less, or cannot drop so many,
            the run is refused: nothing is done for it.
        tokens: At least one. FOLLOW stands alone.
        output: What comes after the last one.
    """

    key: int
    slot: int
    start: int
    tokens: tuple[int, ...]
    output: Output = Output.NONE

    @property
    def end(self) -> int:
        """The slot's length after it."""
        return self.start + len(self.tokens)


class Step(NamedTuple):
    """Operations, then one call, or several of the same rows.

    Attributes:
        number: They rise.
        operations: Done first, in this order.
        runs: In ascending order of slots; one for each key and slot. Either
            each has one token (a rows step), or they are chunks of prompts in
            consecutive slots (a chunk step).
        level: The highest class among them.
        calls: How often rows are computed, each time with the tokens drawn the time
            before. A recall that comes meanwhile ends that after the call under way.
    """

    number: int
    operations: tuple[Operation, ...] = ()
    runs: tuple[Run, ...] = ()
    level: int = 0
    calls: int = 1

    @property
    def rows(self) -> bool:
        """Whether each run has one token."""
        return all(len(run.tokens) == 1 for run in self.runs)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of a chunk step; 0 for rows."""
        return 0 if self.rows else sum(len(run.tokens) for run in self.runs)

    @property
    def shape(self) -> Shape:
        """What its call is made of, before the backend adds fillers."""
        return shape_of_runs(self.runs)


def shape_of_runs(runs: Iterable[Run]) -> Shape:
    """The shape of a call of those runs, without fillers."""
    return shape_of((run.slot, run.start, len(run.tokens)) for run in runs)


def shape_of(parts: Iterable[tuple[int, int, int]]) -> Shape:
    """The shape of a call.

    Args:
        parts: Slot, start, and number of tokens of each run, in ascending order of slots.
    """
    groups = runs = tokens = context = 0
    before = -2
    for slot, start, count in parts:
        groups += slot != before + 1
        before = slot
        runs += 1
        tokens += count
        context += count * (2 * start + count - 1)
    return Shape(groups, runs, tokens, context / 2000)


class Logprobs(NamedTuple):
    """Log-probabilities (natural) at one position, under the model's own distribution.

    `top` holds (token, log-probability) pairs, most likely first.
    """

    chosen: float
    top: tuple[tuple[int, float], ...] = ()


class RunResult(NamedTuple):
    """What became of a run.

    Attributes:
        key: The run's.
        done: How many of its tokens are in the cache now: all, and those drawn by
            all calls but the last; or 0 for a run that was refused or skipped.
        tokens: What was drawn, one for each call.
        logprobs: One for each of them, where asked.
        error: Why this sequence cannot go on. Its slot is empty then.
        code: A reason of `RequestFailed`, with an error of which the request itself
            is the cause; empty where the runner is.
    """

    key: int
    done: int
    tokens: tuple[int, ...] = ()
    logprobs: tuple[Logprobs, ...] = ()
    error: str | None = None
    code: str = ""


class StepResult(NamedTuple):
    """What became of a step.

    Attributes:
        number: The step's.
        recalled: It was not begun, and nothing of it was done.
        runs: One for each run, in their order.
        failed: Indices of the operations that failed. After a failed `Copy` or
            `Restore` the slot is empty; after a failed `Save` there is no snapshot.
        seconds: What the calls took; 0 where nobody measured.
        operation_seconds: What the operations took.
        shape: The first call as it was executed; None where it was executed as asked.
        threads: How many computed; 0 where that is not said.
        calls: How many there were.
    """

    number: int
    recalled: bool = False
    runs: tuple[RunResult, ...] = ()
    failed: tuple[int, ...] = ()
    seconds: float = 0.0
    operation_seconds: float = 0.0
    shape: Shape | None = None
    threads: int = 0
    calls: int = 1
