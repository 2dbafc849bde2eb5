"""Calls of a model, timed: chunks and rows at some length of context.

The cells of a cache cost time only where tokens were computed into them, so a
context is filled before calls in it are timed. How long all of it may take is
limited: a large model is timed at a shorter context.
"""

from __future__ import annotations

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
# The share of the time that a tile may take: two kinds of attention need some calls more each.
TILE_SHARE_MAX = 0.35

# Why nothing was measured.
OTHERS_COMPUTE = "other processes were computing; the next load measures again"

_NAME = re.compile(r"(chunk|rows)_(\d+)_at_(\d+)_seconds")


class CannotMeasure(Exception):
    """What was measured would mislead; the message says why."""


class TooSlow(CannotMeasure):
    """A chunk takes too long; later loads need not try again."""


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


class Filled(NamedTuple):
    """A context that was filled, to go on from in another one of the same kind.

    Attributes:
        times: What was timed in it.
        tokens: That slot 0 holds.
        cache: Of slot 0; None where it could not be saved.
    """

    times: Times
    tokens: int
    cache: SavedCache | None


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


class CallTimer:
    """Times calls of one context; those that there is no time for are left out.

    Its methods raise CannotMeasure where other processes compute meanwhile.

    Attributes:
        times: What was timed.
        context: Tokens in slot 0, from which calls go on.
    """

    def __init__(
        self, model: LlamaModel, limit: TimeLimit, goes_on: Callable[[], None] = lambda: None
    ) -> None:
        """Warm up, twice if the first time is long: it prepares the context.

        Args:
            model: All its slots are empty.
            limit: What the time left is asked of before each call.
            goes_on: Told after each call: the host must know that this does not hang.

        Raises:
            TooSlow: A tile would take more than TILE_SHARE_MAX of the limit.
        """
        self.times: dict[Call, float] = {}
        self.context = 0
        self._model = model
        self._limit = limit
        self._goes_on = goes_on
        if not self._warm_up() and (limit.left <= 0 or not self._warm_up()):
            raise TooSlow("there was no time to measure")

    def _warm_up(self) -> bool:
        """Compute a few tokens; whether by their time a tile is short enough for a trial."""
        tokens = min(WARM_UP_TOKENS, self._model.context_per_sequence)
        began = self._limit.clock()
        self._model.decode([Part(0, 0, FILLER * tokens)])
        seconds = self._limit.clock() - began
        self._model.clear(0)
        self._goes_on()
        self._limit.check_quiet()
        return seconds * TILED_TOKENS / tokens <= self._limit.seconds_max * TILE_SHARE_MAX

    def chunk(self, size: int, *, at_start: bool = False) -> None:
        """Time a chunk after what slot 0 holds, which stays as it is, or at another one's start."""
        if at_start and self.context:
            slot, context = 1, 0
        else:
            slot, context = 0, self.context
        if slot < self._model.settings.sequences and self._fits(size, context):
            self._time(Call("chunk", size, context), [Part(slot, context, FILLER * size)])
            self._model.drop_fillers(slot, context)

    def fill(self, size: int) -> bool:
        """Make slot 0 longer by a chunk, timed; False where that cannot be."""
        if not self._fits(size, self.context):
            return False
        call = Call("chunk", size, self.context)
        self._time(call, [Part(0, self.context, FILLER * size, wanted=False)])
        self.context += size
        return True

    def rows(self, count: int, trials: int = 2) -> None:
        """Time rows in the first so many slots, each with as much context as slot 0."""
        if count > self._model.settings.sequences:
            return
        for slot in range(1, count):
            self._model.copy(0, slot, self.context)
        for _ in range(trials):
            if self._fits(1, self.context) and self._limit.left > self._estimate("rows", count):
                rows = [Part(slot, self.context, FILLER) for slot in range(count)]
                self._time(Call("rows", count, self.context), rows)
                for slot in range(count):
                    self._drop(slot)
        for slot in range(1, count):
            self._model.clear(slot)

    def filled(self) -> Filled:
        """What slot 0 holds, and what was timed."""
        try:
            cache = self._model.save(0)
        except DecodeError:
            cache = None
        return Filled(dict(self.times), self.context, cache)

    def resume(self, filled: Filled) -> None:
        """Go on from a context that was filled before; from an empty one where that fails."""
        self.times = dict(filled.times)
        if filled.cache is not None and self._model.restore(0, filled.cache):
            self.context = filled.tokens
        else:
            self._model.clear(0)

    def has_cells(self, tokens: int) -> bool:
        """Whether slot 0 has cells for so many tokens more."""
        return self.context + tokens <= self._model.context_per_sequence

    def affords(self, tokens: int) -> bool:
        """Whether there is time for so many tokens of a prompt."""
        return self._limit.left > self._estimate("chunk", tokens)

    def close(self) -> Times:
        """End with all slots empty."""
        self._model.clear(0)
        self.context = 0
        return self.times

    def _estimate(self, kind: str, tokens: int) -> float:
        """Seconds for so many tokens, by the slowest call of the kind so far.

        Calls below a tile have kernels of their own: they say nothing of longer ones.
        """
        like = min(tokens, TILED_TOKENS) if kind == "chunk" else 1
        slowest = (
            seconds / call.size
            for call, seconds in self.times.items()
            if call.kind == kind and call.size >= like
        )
        return tokens * max(slowest, default=0.0)

    def _fits(self, size: int, context: int) -> bool:
        """Whether there are cells behind a context, and time, for so many tokens."""
        room = context + size <= self._model.context_per_sequence
        if not room or size > self._model.settings.rows_max:
            return False
        return self.affords(size)

    def _time(self, call: Call, parts: list[Part]) -> None:
        started = self._limit.clock()
        self._model.decode(parts)
        seconds = self._limit.clock() - started
        self.times[call] = min(seconds, self.times.get(call, seconds))
        self._goes_on()
        self._limit.check_quiet()

    def _drop(self, slot: int) -> None:
        self._model.drop_fillers(slot, self.context)
