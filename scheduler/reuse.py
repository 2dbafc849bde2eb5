"""How likely it is that somebody comes who begins like what is left over in a slot."""

from __future__ import annotations

FIRST_GUESS = 0.5
# Of the guess, how much one more slot says: some twenty are remembered.
RATE = 0.1
# What is left over is never quite worthless: loads change.
LEAST = 0.05


class ReuseChance:
    """Learned from what became of what earlier requests left behind.

    Attributes:
        value: Between 0 and 1.
    """

    def __init__(self) -> None:
        self.value = FIRST_GUESS

    def learn(self, *, used: bool) -> None:
        """Take in that somebody began with it, or that it was overwritten before."""
        self.value = max(self.value + RATE * (used - self.value), LEAST)
