"""Finds the request that makes its runner die: who ran at which losses, and who may run now.

After a loss, the requests that ran may be the cause. Those that are suspected
are tried one at a time: each runs alone until it has got past the point where
the runner died. One that makes it is no suspect any more. One whose runner
dies twice while it runs alone is convicted.

While anybody is suspected, nobody else is admitted, and no step is sent ahead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Neither is tuned. A suspect is cleared by as many tokens as a runner has steps at once: the
# one that it died in is among them.
PROOF_TOKENS = 2
# Losses of a request that ran alone, after which it is the cause: one may be bad luck.
ALONE_MAX = 2


@dataclass(slots=True)
class _Record:
    """What speaks against a request.

    Attributes:
        losses: Runners that were lost while it ran, since it was last cleared.
        alone: How many of those it had to itself.
        proof: Tokens of output with which it is cleared.
    """

    losses: int = 0
    alone: int = 0
    proof: int = 0


class Suspects:
    """The requests that may have killed a runner, by key, in the order of their trials."""

    def __init__(self, losses_max: int) -> None:
        """Suspect nobody.

        Args:
            losses_max: Losses at which a request that ran in company is suspected.
        """
        self._losses_max = losses_max
        self._records: dict[int, _Record] = {}

    def __bool__(self) -> bool:
        """Whether anybody is suspected."""
        return bool(self.suspected)

    @property
    def suspected(self) -> list[int]:
        """In the order of their trials: first those with the most losses alone."""
        suspected = (
            key
            for key, record in self._records.items()
            if record.alone > 0 or record.losses >= self._losses_max
        )
        return sorted(suspected, key=lambda key: -self._records[key].alone)

    def lost(self, running: Mapping[int, int]) -> tuple[int, ...]:
        """Take in that the runner died, by nothing that is known to come from outside.

        Args:
            running: The requests that held a slot, each with its tokens of output.

        Returns:
            The requests that are convicted. They are forgotten here.
        """
        for key, output_tokens in running.items():
            record = self._records.setdefault(key, _Record())
            record.losses += 1
            record.alone += len(running) == 1
            record.proof = output_tokens + PROOF_TOKENS
        convicted = tuple(key for key in running if self._records[key].alone >= ALONE_MAX)
        for key in convicted:
            self.left(key)
        return convicted

    def progressed(self, key: int, output_tokens: int) -> None:
        """Take in that a request has so many tokens of output: enough of them clear a suspect."""
        suspected = key in self._records and key in self.suspected
        if suspected and output_tokens >= self._records[key].proof:
            self.left(key)

    def left(self, key: int) -> None:
        """Forget a request."""
        self._records.pop(key, None)
