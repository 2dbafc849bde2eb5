"""How a machine's speed changes: what calls took over time, in ratios to their costs."""

from __future__ import annotations

import math
from typing import NamedTuple

from llm_serving_engine.scheduler.step import Shape
from llm_serving_engine.server.simulator.costs import Costs

# How long a spell is at first, and how many are kept: then each two become one.
SPELL_SECONDS = 1.0
SPELLS_MAX = 1000


class Slowdown(NamedTuple):
    """What calls take over time, in ratios to their costs.

    Attributes:
        seconds: How long each ratio holds.
        ratios: One after the other. After the last, the first holds again.
    """

    seconds: float = SPELL_SECONDS
    ratios: tuple[float, ...] = (1.0,)

    def at(self, time: float) -> float:
        """The ratio at a time, in seconds."""
        return self.ratios[int(time / self.seconds) % len(self.ratios)]

    def check(self) -> None:
        """Raise ValueError if a value is out of range."""
        values = (self.seconds, *self.ratios)
        if not self.ratios or any(not (math.isfinite(value) and value > 0) for value in values):
            raise ValueError("slowdown is not of positive numbers")


EVEN = Slowdown()


class Spell:
    """The calls of a second or more: what they were made of, and what they took."""

    def __init__(self) -> None:
        self.seconds = 0.0
        # The groups, tokens, and context of rows, and then those of chunks.
        self._parts = [0.0] * 6

    def add(self, shape: Shape, calls: int, seconds: float) -> None:
        """Take in calls of one shape, and what they took together."""
        self.seconds += seconds
        first = 0 if shape.rows else 3
        for i, part in enumerate((shape.groups, shape.tokens, shape.context), start=first):
            self._parts[i] += calls * part

    def join(self, other: Spell) -> None:
        """Take in the calls of another spell."""
        self.seconds += other.seconds
        self._parts = [a + b for a, b in zip(self._parts, other._parts, strict=True)]

    def expected(self, costs: Costs) -> float:
        """Seconds that the calls take at those costs."""
        return sum(cost * part for cost, part in zip(costs[:6], self._parts, strict=True))


class Spells:
    """All calls of a recording, by when they were done."""

    def __init__(self) -> None:
        self._seconds = SPELL_SECONDS
        self._spells: list[Spell] = []

    def add(self, at: float, shape: Shape, calls: int, seconds: float) -> None:
        """Take in calls of one shape that were done at a time, and what they took together."""
        while at >= SPELLS_MAX * self._seconds:
            self._join()
        while len(self._spells) <= int(at / self._seconds):
            self._spells.append(Spell())
        self._spells[int(at / self._seconds)].add(shape, calls, seconds)

    def slowdown(self, costs: Costs) -> Slowdown:
        """Compare what calls took with costs. An idle machine is as slow as it was before."""
        ratios = [1.0]
        for spell in self._spells:
            expected = spell.expected(costs)
            ratios.append(spell.seconds / expected if expected > 0 else ratios[-1])
        return Slowdown(self._seconds, tuple(ratios[1:]) or (1.0,))

    def _join(self) -> None:
        self._seconds *= 2
        if len(self._spells) % 2:
            self._spells.append(Spell())
        firsts, seconds = self._spells[::2], self._spells[1::2]
        for first, second in zip(firsts, seconds, strict=True):
            first.join(second)
        self._spells = firsts
