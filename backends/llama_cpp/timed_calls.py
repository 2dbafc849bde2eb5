"""Calls of a model, timed: chunks and rows at some length of context.

The cells of a cache cost time only where tokens were computed into them, so a
context is filled before calls in it are timed. How long all of it may take is
limited: a large model is timed at a shorter context.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from llm_serving_engine.backends.llama_cpp.model import DecodeError, LlamaModel, SavedCache
from llm_serving_engine.backends.llama_cpp.padding import TILED_TOKENS
from llm_serving_engine.backends.llama_cpp.part import FILLER, Part
from llm_serving_engine.backends.other_processes import OtherProcesses
from llm_serving_engine.scheduler.step import Shape, shape_of

# The first call of a context prepares it, and reads the weights.
WARM_UP_TOKENS = 16
# What rows take at most, in tokens of a prompt.
ROWS_TOKENS = 16
# Rows that take longer are timed once: what they take by chance is less in proportion.
ROWS_AGAIN_SECONDS_MAX = 0.06
# Tokens that the unit and tails are measured with at least: chunks of 32 and 64.
UNIT_TOKENS = 96
# What a token takes in the middle of a context of DEPTH, compared with its start.
DEEPER = 1.4
# No call has more tokens, whatever a damaged file says.
SIZE_MAX = 4096
# A context that is filled with fewer does not tell kinds of attention apart.
FILL_MIN = 128

# Why nothing was measured.
OTHERS_COMPUTE = "other processes were computing; the next load measures again"
NO_TIME = "there was no time to measure; the next load measures again"

_NAME = re.compile(r"(chunk|rows)_(\d+)_at_(\d+)_seconds")


class CannotMeasure(Exception):
    """What was measured would mislead; the message says why."""


class TooSlow(CannotMeasure):
    """The model takes too long, twice in a row; later loads need not try again."""


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
        call = cls(match[1], int(match[2]), int(match[3])) if match else None
        return call if call and 0 < call.size <= SIZE_MAX else None

    @property
    def shape(self) -> Shape:
        """As the scheduler's costs are learned by."""
        if self.kind == "rows":
            return shape_of((slot, self.context, 1) for slot in range(self.size))
        return shape_of([(0, self.context, self.size)])


Times = Mapping[Call, float]
"""Seconds of calls, each the fastest of its trials."""


class Filled(NamedTuple):
    """A context that was filled, to go on from in another one of the same kind.

    Attributes:
        times: What was timed in it.
        tokens: That slot 0 holds.
        cache: Of slot 0; None where it is empty or could not be saved.
        token_seconds: Of a token of the warm-up.
    """

    times: Times
    tokens: int
    cache: SavedCache | None
    token_seconds: float


EMPTY = Filled({}, 0, None, 0.0)


class TimeLimit:
    """How long measuring may take, whatever the machine does meanwhile.

    Attributes:
        clock: Seconds.
        others: What other processes take meanwhile.
        seconds_max: From the beginning.
    """

    def __init__(self, seconds_max: float, others: OtherProcesses | None = None) -> None:
        """Begin.

        Args:
            seconds_max: From now on.
            others: Made just now. Default: of this machine.
        """
        self.others = others or OtherProcesses()
        self.clock = self.others.clock
        self.seconds_max = seconds_max

    @property
    def left(self) -> float:
        """Seconds; below 0 where it took longer."""
        return self.seconds_max - self.others.elapsed

    def check_quiet(self) -> None:
        """Raise CannotMeasure where others have computed so much that times mean nothing."""
        if self.others.crowded():
            raise CannotMeasure(OTHERS_COMPUTE)


def fill_room(
    limit: TimeLimit, token_seconds: float, rows_seconds: float, contexts: int = 1
) -> int:
    """The tokens, in whole tiles, that there is time to fill contexts with and to time rows behind.

    Args:
        limit: Of the time.
        token_seconds: What a token takes at the start of a context.
        rows_seconds: What rows take at the start of a context; twice as much is expected.
        contexts: How many are to be filled. Time is left for the unit, unless they are several
            and would be too short: to choose among them is worth more.
    """
    seconds = limit.left / contexts - 2 * rows_seconds
    tokens = seconds / (DEEPER * token_seconds) - WARM_UP_TOKENS
    before_unit = tokens - UNIT_TOKENS / contexts
    room = before_unit if contexts == 1 or before_unit >= FILL_MIN else tokens
    return max(int(room), 0) // TILED_TOKENS * TILED_TOKENS


class CallTimer:
    """Times calls of one context; those that there is no time for are left out.

    Its methods raise CannotMeasure where other processes compute meanwhile.

    Attributes:
        times: What was timed.
        context: Tokens in slot 0, from which calls go on.
        token_seconds: Of a token of the warm-up, the faster if there were two.
    """

    def __init__(
        self, model: LlamaModel, limit: TimeLimit, goes_on: Callable[[], None] = lambda: None
    ) -> None:
        """Warm up.

        Args:
            model: All its slots are empty.
            limit: What the time left is asked of before each call.
            goes_on: Told after each call: the host must know that this does not hang.
        """
        self.times: dict[Call, float] = {}
        self.context = 0
        self.token_seconds = math.inf
        self._model = model
        self._limit = limit
        self._goes_on = goes_on
        self.warm_up()

    def warm_up(self) -> None:
        """Compute a few tokens, and drop them."""
        tokens = min(WARM_UP_TOKENS, self._model.context_per_sequence)
        began = self._limit.clock()
        self._model.decode([Part(0, 0, FILLER * tokens)])
        self.token_seconds = min(self.token_seconds, (self._limit.clock() - began) / tokens)
        self._model.clear(0)
        self._goes_on()
        self._limit.check_quiet()

    def chunk(self, size: int) -> None:
        """Time a chunk after what slot 0 holds, which stays as it is."""
        if self._fits(size):
            call = Call("chunk", size, self.context)
            self._time(call, [Part(0, self.context, FILLER * size)])
            self._model.drop_fillers(0, self.context)

    def fill(self, tokens: int) -> bool:
        """Make slot 0 longer, by as few chunks as can be, timed; False where that cannot be."""
        end = self.context + tokens
        while self.context < end:
            size = min(end - self.context, self._model.settings.rows_max)
            if not self._fits(size):
                return False
            call = Call("chunk", size, self.context)
            self._time(call, [Part(0, self.context, FILLER * size, wanted=False)])
            self.context += size
        return True

    def rows(self, count: int) -> None:
        """Time rows in the first so many slots, each with as much context as slot 0, twice."""
        if count > self._model.settings.sequences:
            return
        for slot in range(1, count):
            self._model.copy(0, slot, self.context)
        call = Call("rows", count, self.context)
        for _ in range(2):
            room = self.context < self._model.context_per_sequence
            time = self._limit.left > self._seconds(ROWS_TOKENS)
            if room and time and self.times.get(call, 0.0) < ROWS_AGAIN_SECONDS_MAX:
                self._time(call, [Part(slot, self.context, FILLER) for slot in range(count)])
                for slot in range(count):
                    self._model.drop_fillers(slot, self.context)
        for slot in range(1, count):
            self._model.clear(slot)

    def filled(self) -> Filled:
        """What slot 0 holds, and what was timed."""
        try:
            cache = self._model.save(0)
        except DecodeError:
            cache = None
        return Filled(dict(self.times), self.context, cache, self.token_seconds)

    def resume(self, filled: Filled) -> None:
        """Go on from a context that was filled before; from an empty one where that fails."""
        self.times = dict(filled.times)
        if filled.cache is not None and self._model.restore(0, filled.cache):
            self.context = filled.tokens
        else:
            self._model.clear(0)

    @property
    def fill_room(self) -> int:
        """The tokens that there is time to fill slot 0 with, before the unit is measured."""
        rows = max((took for call, took in self.times.items() if call.kind == "rows"), default=0)
        return fill_room(self._limit, self._seconds(TILED_TOKENS) / TILED_TOKENS, rows)

    def close(self) -> Times:
        """End with all slots empty."""
        self._model.clear(0)
        self.context = 0
        return self.times

    def _seconds(self, tokens: int) -> float:
        """What so many tokens of a prompt take, by the longest chunk in the longest context.

        Calls below a tile have kernels of their own: they say nothing of longer ones.
        """
        like = [
            (call.context, call.size, seconds / call.size)
            for call, seconds in self.times.items()
            if call.kind == "chunk" and call.size >= min(tokens, TILED_TOKENS)
        ]
        return tokens * (max(like)[2] if like else self.token_seconds)

    def _fits(self, size: int) -> bool:
        """Whether there are cells, and time, for so many tokens more."""
        room = self.context + size <= self._model.context_per_sequence
        if not room or size > self._model.settings.rows_max:
            return False
        return self._limit.left > self._seconds(size)

    def _time(self, call: Call, parts: list[Part]) -> None:
        started = self._limit.clock()
        self._model.decode(parts)
        seconds = self._limit.clock() - started
        self.times[call] = min(seconds, self.times.get(call, seconds))
        self._goes_on()
        self._limit.check_quiet()
