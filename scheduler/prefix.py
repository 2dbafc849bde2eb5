"""What prompts have in common: compared token by token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.slots import Slot, owner_of


class Match(NamedTuple):
    """A slot whose cache begins with `tokens` tokens of what somebody needs."""

    slot: Slot
    tokens: int


def common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tokens two sequences begin with alike.

    By halves: comparing slices is much faster than comparing items.
    """
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def whole_units(common: int, unit: int, prompts: tuple[int, int]) -> int:
    """Of the tokens that two sequences have in common, those whose cached bits they share.

    Whole units of a prompt may be computed by other means than the rest of it
    and the output, so that tokens are interchangeable only where they are of
    one kind in both.

    Args:
        common: How many tokens they begin with alike.
        unit: Of prefill, in tokens; 1 where bits do not matter.
        prompts: The lengths of their prompts, in tokens.
    """
    ends = {length // unit * unit for length in prompts}
    if unit > 1 and len(ends) > 1:
        common = min(common, *ends)
    return common // unit * unit


def longest_match(sequence: Sequence, slots: Iterable[Slot], unit: int) -> Match | None:
    """The slot with the most tokens that `sequence` can begin with, cut to whole units.

    At least one token is left to compute: its logits are needed.
    """
    needed = sequence.tokens(0, sequence.known_tokens - 1)
    owner = owner_of(sequence)
    best: Match | None = None
    for slot in slots:
        if slot.holder is sequence or not slot.shared_by(owner):
            continue
        common = common_prefix(needed, slot.cached())
        tokens = whole_units(common, unit, (len(sequence.request.prompt), slot.prompt_tokens))
        if tokens > (best.tokens if best else 0):
            best = Match(slot, tokens)
    return best


def best_donor(
    sequence: Sequence, holders: Iterable[Sequence], unit: int
) -> tuple[Sequence, int] | None:
    """The sequence whose prompt, still being computed, begins most like this one's.

    Returns:
        The donor, and how many tokens it will have in common; None where there is none.
    """
    needed = sequence.tokens(0, sequence.known_tokens - 1)
    owner = owner_of(sequence)
    best: tuple[Sequence, int] | None = None
    for donor in holders:
        computing = donor.state is State.PREFILL and not donor.sharing
        if donor is sequence or not computing or owner_of(donor) != owner:
            continue
        common = common_prefix(needed, donor.tokens(0, donor.known_tokens))
        prompts = len(sequence.request.prompt), len(donor.request.prompt)
        tokens = whole_units(common, unit, prompts)
        if tokens > (best[1] if best else 0):
            best = donor, tokens
    return best
