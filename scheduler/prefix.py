"""What prompts have in common: compared token by token."""

from __future__ import annotations


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

    The end of a prompt beyond its whole units, and the output, are computed by
    other calls than whole units, so they are interchangeable only with their own.

    Args:
        common: How many tokens they begin with alike.
        unit: Tokens of a chunk; 1 where bits do not matter.
        prompts: The lengths of their prompts, in tokens.
    """
    if unit > 1 and prompts[0] != prompts[1]:
        common = min(common, *(length // unit * unit for length in prompts))
    return common // unit * unit
