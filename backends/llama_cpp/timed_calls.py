"""Calls of a model, timed: chunks and rows at some length of context.

The cells of a cache cost time only where tokens were computed into them, so a
context is filled before calls in it are timed. How long that may take is limited:
a large model is timed at a shorter context.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.llama_cpp.model import LlamaModel
from llm_serving_engine.backends.llama_cpp.part import FILLER, Part
from llm_serving_engine.scheduler.step import Shape, shape_of

# What other processes may take of the cores meanwhile: with more, the times say how
# long the threads waited. The system counts in ticks.
BUSY_CORES_MAX = 0.4
TICKS_SECONDS = 0.1
# The first call of a context prepares it, and reads the weights.
WARM_UP_TOKENS = 16
# The part of the time in which the context is filled.
FILL_SHARE = 0.6

_NAME = re.compile(r"(chunk|rows)_(\d+)_at_(\d+)_seconds")


class CannotMeasure(Exception):
    """What was measured would mislead; the message says why."""


class Call(NamedTuple):
    """A call that can be timed.

    Attributes:
        kind: "chunk" for consecutive tokens of one slot, "rows" for one token each.
        size: Tokens.
        context: Tokens that each slot holds before.
    """

    kind: str
    size: int
    context: int

    @property
    def name(self) -> str:
        """As it is remembered."""
        return f"{self.kind}_{self.size}_at_{self.context}_seconds"

    @classmethod
    def named(cls, name: str) -> Call | None:
        """The call of a name; None where it is none."""
        match = _NAME.fullmatch(name)
        return cls(match[1], int(match[2]), int(match[3])) if match else None

    @property
    def shape(self) -> Shape:
        """As the scheduler's costs are learned by."""
        if self.kind == "rows":
            return shape_of((slot, self.context, 1) for slot in range(self.size))
        return shape_of([(0, self.context, self.size)])


Times = Mapping[Call, float]
"""Seconds of calls, each the fastest of its trials."""


class CallTimer:
    """Times calls of one context, within a limit.

    Its methods raise CannotMeasure where other processes compute meanwhile.

    Attributes:
        times: What was timed.
        context: Tokens in slot 0, from which calls go on.
    """

    def __init__(
        self,
        model: LlamaModel,
        seconds_max: float,
        goes_on: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
        others: Callable[[], float] = machine.core_seconds_of_others,
    ) -> None:
        """Begin, and warm up.

        Args:
            model: All its slots are empty.
            seconds_max: How long to time calls. The first ones are made in any case.
            goes_on: Told after each call: the host must know that this does not hang.
            clock: Seconds.
            others: Core seconds that other processes have had so far.
        """
        self.times: dict[Call, float] = {}
        self.context = 0
        self._model = model
        self._goes_on = goes_on
        self._clock, self._others = clock, others
        self._seconds_max = seconds_max
        self._began, self._had = clock(), others()
        model.decode([Part(0, 0, FILLER * min(WARM_UP_TOKENS, model.context_per_sequence))])
        model.clear(0)

    def chunk(self, size: int, trials: int = 1) -> None:
        """Time a chunk after what slot 0 holds, which stays as it is."""
        if not self._fits(size):
            return
        for _ in range(trials):
            self._time(Call("chunk", size, self.context), [Part(0, self.context, FILLER * size)])
            self._drop(0)

    def fill(self, *sizes: int) -> None:
        """Make slot 0 longer by chunks, each timed, as far as time and context allow."""
        for size in sizes:
            part = self._seconds_max * FILL_SHARE
            if self.times and self._elapsed() + self.estimate(size) > part:
                return
            if not self._fits(size):
                return
            call = Call("chunk", size, self.context)
            self._time(call, [Part(0, self.context, FILLER * size, wanted=False)])
            self.context += size

    def rows(self, counts: tuple[int, ...], trials: int = 2) -> None:
        """Time rows in the first so many slots, each with as much context as slot 0."""
        counts = tuple(count for count in counts if count <= self._model.settings.sequences)
        if not self._fits(1):
            return
        for slot in range(1, max(counts)):
            self._model.copy(0, slot, self.context)
        for count in counts:
            for _ in range(trials):
                rows = [Part(slot, self.context, FILLER) for slot in range(count)]
                self._time(Call("rows", count, self.context), rows)
                for slot in range(count):
                    self._drop(slot)
        for slot in range(1, max(counts)):
            self._model.clear(slot)

    def affords(self, tokens: int) -> bool:
        """Whether there is time for so many tokens of a prompt."""
        return self._elapsed() + self.estimate(tokens) <= self._seconds_max

    def estimate(self, tokens: int) -> float:
        """Seconds for so many tokens of a prompt, by the slowest chunk so far."""
        slowest = (s / call.size for call, s in self.times.items() if call.kind == "chunk")
        return tokens * max(slowest, default=0.0)

    def close(self) -> Times:
        """End with all slots empty."""
        self._model.clear(0)
        return self.times

    def _check_quiet(self) -> None:
        """Raise CannotMeasure where others have computed meanwhile."""
        if self._others() - self._had > BUSY_CORES_MAX * self._elapsed() + TICKS_SECONDS:
            raise CannotMeasure("other processes were computing")

    def _elapsed(self) -> float:
        return self._clock() - self._began

    def _fits(self, size: int) -> bool:
        room = self.context + size <= self._model.context_per_sequence
        return room and size <= self._model.settings.rows_max

    def _time(self, call: Call, parts: list[Part]) -> None:
        started = self._clock()
        self._model.decode(parts)
        seconds = self._clock() - started
        self.times[call] = min(seconds, self.times.get(call, seconds))
        self._goes_on()
        self._check_quiet()

    def _drop(self, slot: int) -> None:
        self._model.drop_fillers(slot, self.context)
