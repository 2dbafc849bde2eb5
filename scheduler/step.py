"""The step contract: what the scheduler asks of a runner, and what comes back.

A backend is whatever executes a `Step` and returns a `StepResult`. Slots are
numbered from 0 to `Capabilities.sequences_max - 1`; a position is an index into
a slot's sequence of tokens, from 0.

Everything here is a NamedTuple: these cross a process boundary many times a
second, and tuples are the cheapest thing to pickle.
"""

from __future__ import annotations

from typing import NamedTuple

from llm_serving_engine.scheduler.request import Sampling


class Capabilities(NamedTuple):
    """What a runner can do with its model; the scheduler plans within it.

    Attributes:
        sequences_max: Slots.
        context_per_sequence: Tokens that a slot holds.
        prefill_unit: Prefill chunks end at multiples of this, in tokens from
            the prompt's start, except the last: what keeps their bits the
            same however the prompt is cut. 1 where it does not matter.
        logprobs: `OpenSequence.top_logprobs` works.
        partial_clear: `ClearSlot.from_position` above 0 works.
        prefix_copy: `CopyPrefix` works.
        save_restore: `SaveSlot`, `RestoreSlot`, and `DropSaved` work.
        grammar: Output can be constrained.
        batch_invariant: A sequence's tokens do not depend on the others'.
        cache_bytes_per_token: Memory of one token's cache.
        state_bytes: Memory of a sequence's cache whatever its length: the state of
            recurrent layers.
        prefill_token_seconds: What a prompt token took when the runner was
            loaded; 0 where nobody measured.
        decode_step_seconds: What a step with one decode row took then.
    """

    sequences_max: int
    context_per_sequence: int
    prefill_unit: int = 1
    logprobs: bool = True
    partial_clear: bool = True
    prefix_copy: bool = True
    save_restore: bool = False
    grammar: bool = False
    batch_invariant: bool = False
    cache_bytes_per_token: int = 0
    state_bytes: int = 0
    prefill_token_seconds: float = 0.0
    decode_step_seconds: float = 0.0


class ClearSlot(NamedTuple):
    """Drop a slot's cache from a position on; 0 drops all of it."""

    slot: int
    from_position: int = 0


class CopyPrefix(NamedTuple):
    """Make the first `tokens` tokens of `source`'s cache the whole cache of `target`."""

    source: int
    target: int
    tokens: int


class SaveSlot(NamedTuple):
    """Save a slot's cache to the runner's memory under a key, before others of the step act."""

    slot: int
    key: int


class RestoreSlot(NamedTuple):
    """Make a saved cache the whole cache of a slot, and forget the saved one."""

    slot: int
    key: int


class DropSaved(NamedTuple):
    """Forget a saved cache."""

    key: int


CacheOperation = ClearSlot | CopyPrefix | SaveSlot | RestoreSlot | DropSaved


class OpenSequence(NamedTuple):
    """Begin sampling for a slot. Sent once, before the slot's first chunk.

    Attributes:
        slot: The slot.
        sampling: How its tokens are chosen.
        top_logprobs: Alternatives to report with each token, or None.
        prompt: All of the prompt's tokens, which the repetition penalty counts.
            Empty where nothing is penalised.
        output: Tokens produced before the sequence came to this slot: the
            sampler goes on as if it had produced them itself.
    """

    slot: int
    sampling: Sampling
    top_logprobs: int | None = None
    prompt: tuple[int, ...] = ()
    output: tuple[int, ...] = ()


class PrefillChunk(NamedTuple):
    """Compute a run of known tokens; sample after the last where `sample` says so.

    Attributes:
        slot: The slot.
        position: The first token's.
        tokens: At least one.
        sample: Whether to choose the next token.
        replayed: How many of the tokens, at the end, are output that was
            decoded before its cache was lost. A runner that is
            batch-invariant computes them to the bits that decoding gave.
    """

    slot: int
    position: int
    tokens: tuple[int, ...]
    sample: bool
    replayed: int = 0


FOLLOW = -1
"""In a row: the token that the step before chose for the slot."""


class DecodeRow(NamedTuple):
    """Compute one token at its position, and sample the next.

    The token is FOLLOW where the step was sent before the result of the one
    before it was known; a backend never sees that.
    """

    slot: int
    position: int
    token: int


class Step(NamedTuple):
    """One batch. A runner does its parts in the order of the fields.

    `decodes` is in ascending order of slots; a slot stands in at most one of
    `prefills` and `decodes`.
    """

    number: int
    operations: tuple[CacheOperation, ...] = ()
    opens: tuple[OpenSequence, ...] = ()
    prefills: tuple[PrefillChunk, ...] = ()
    decodes: tuple[DecodeRow, ...] = ()

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens in this step."""
        return sum(len(chunk.tokens) for chunk in self.prefills)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.operations or self.opens or self.prefills or self.decodes)

    @property
    def only_decodes(self) -> bool:
        """Whether there are rows, and nothing else."""
        return bool(self.decodes) and not (self.operations or self.opens or self.prefills)

    def following(self, last: StepResult) -> Step:
        """The same after `last`: its tokens for FOLLOW, and no rows for which it has none."""
        if all(row.token != FOLLOW for row in self.decodes):
            return self
        chosen = {sampled.slot: sampled.token for sampled in last.tokens}
        rows = (
            row._replace(token=chosen.get(row.slot, FOLLOW)) if row.token == FOLLOW else row
            for row in self.decodes
        )
        return self._replace(decodes=tuple(row for row in rows if row.token != FOLLOW))


class Logprobs(NamedTuple):
    """Log-probabilities (natural) at one position, under the model's own distribution.

    `top` holds (token, log-probability) pairs, most likely first.
    """

    chosen: float
    top: tuple[tuple[int, float], ...] = ()


class SampledToken(NamedTuple):
    """The next token of a slot's sequence."""

    slot: int
    token: int
    logprobs: Logprobs | None = None


class SlotFailure(NamedTuple):
    """What was asked of a slot could not be done; its cache is cleared.

    Attributes:
        slot: The slot.
        reason: Why, in words for the caller.
        code: A reason of `RequestFailed` where the request itself is the cause;
            empty where the runner is.
    """

    slot: int
    reason: str
    code: str = ""


class StepResult(NamedTuple):
    """What a step brought.

    Attributes:
        number: The step's.
        tokens: One entry per decode row and per chunk with `sample`, unless
            the slot failed.
        failures: The slots whose part failed.
        duration: Seconds that the runner took.
        threads: How many computed; 0 where that is not said.
    """

    number: int
    tokens: tuple[SampledToken, ...] = ()
    failures: tuple[SlotFailure, ...] = ()
    duration: float = 0.0
    threads: int = 0
