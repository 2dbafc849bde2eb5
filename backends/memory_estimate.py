"""Estimates a model's memory, and checks whether it is available."""

from __future__ import annotations

from typing import NamedTuple

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.backend import LoadError


class MemoryEstimate(NamedTuple):
    """Bytes that a runner will take, worked out before anything is loaded.

    Attributes:
        weights: As they are in the file, from which they are mapped.
        repacked: The copies of them in the order that fast kernels want.
        cache: Of all sequences.
        buffers: Everything else: intermediate results, vocabulary, program.
    """

    weights: int
    repacked: int
    cache: int
    buffers: int

    @property
    def total(self) -> int:
        """What will be resident."""
        return sum(self)

    @property
    def needed(self) -> int:
        """What must be there: of weights that are copied, the system can drop the file's pages."""
        return self.total - self.repacked

    def described(self) -> str:
        """The total and its parts in words."""
        parts = ", ".join(
            f"{name} {size / 1e6:,.0f} MB" for name, size in self._asdict().items() if size
        )
        return f"{self.total / 1e6:,.0f} MB ({parts})"


def size(number: int) -> str:
    """A number of bytes in words, in megabytes where there is one."""
    return f"{number / 1e6:,.0f} MB" if number >= 1e6 else f"{number:,} bytes"


def check_fits(estimate: MemoryEstimate, limit: int | None) -> None:
    """Let a load pass that fits.

    Args:
        estimate: What it will take.
        limit: What it may take in bytes; None for all that the machine has.

    Raises:
        LoadError: It takes more than it may, or than there is.
    """
    lower = "lower sequences or context_per_sequence"
    takes = f"the model would take {estimate.described()}"
    if limit is not None and estimate.total > limit:
        raise LoadError(f"{takes}; memory_bytes_max is {size(limit)}: {lower}")
    available = machine.available_memory()
    if estimate.needed > available:
        raise LoadError(f"{takes}; this machine has {available / 1e6:,.0f} MB available: {lower}")
