"""The step after the one under way, as far as it is known before that one's result."""

from __future__ import annotations

from collections.abc import Iterable

from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import FOLLOW, Capabilities, DecodeRow, Step


def rows_ahead(
    step: Step, holders: Iterable[Sequence], capabilities: Capabilities
) -> tuple[DecodeRow, ...]:
    """The rows of a step that goes on from `step`, with FOLLOW for their tokens.

    None where anything but rows may be due: somebody has a prompt to compute,
    has no row in `step`, or ends with it; or `step` itself does more than
    decode, so that moves may follow it.

    Args:
        step: The one under way.
        holders: Who runs, in the order of their slots.
        capabilities: The runner's.
    """
    if not step.only_decodes:
        return ()
    has_row = {row.slot for row in step.decodes}
    rows = []
    for sequence in holders:
        slot = sequence.slot
        if slot not in has_row or not _goes_on(sequence, capabilities.context_per_sequence):
            return ()
        rows.append(DecodeRow(slot, sequence.computed, FOLLOW))
    return tuple(rows)


def _goes_on(sequence: Sequence, context: int) -> bool:
    """Whether its next token, which is being computed, is not the last by any limit."""
    return (
        sequence.state is State.DECODE
        and len(sequence.output) + 1 < sequence.request.max_tokens
        and sequence.known_tokens + 1 < context
    )
