"""One setting after the other, each measured in alternation with what it would replace.

Speeds swing by a quarter between runs on a machine that does other things too.
So a value and the default are measured in turns, minutes are never compared
with minutes, and the default stays unless another one wins clearly.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from llm_serving_engine.backends.backend import LoadError
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.models.errors import ModelError
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.tuning import candidates
from llm_serving_engine.backends.tuning.candidates import SETTINGS, Axis, with_value
from llm_serving_engine.backends.tuning.contender import (
    SMALLEST_EFFORT,
    Contender,
    Effort,
    MeasuringFailed,
)
from llm_serving_engine.backends.tuning.decision import (
    ROUNDS_MIN,
    ROUNDS_TO_WIN,
    Trial,
    Value,
    fastest,
    leads,
    settled,
    step_target_seconds,
)
from llm_serving_engine.backends.tuning.reading import Reading, median

ROUNDS_MAX = 9
# Of the whole time, what one measurement is to take.
MEASUREMENT_SHARE = 1 / 60
_NO_TIME = "there was no time left"
_NO_MEMORY = "there is not enough memory to load the model twice"


class TuningError(Exception):
    """Nothing can be measured; the message says why in one line."""


class Budget:
    """The time there is."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin now, with that many seconds, by a clock."""
        self.seconds = seconds
        self.now = clock
        self._began = clock()

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return self.now() - self._began

    @property
    def left(self) -> float:
        """Seconds until the end; 0 after it."""
        return max(self.seconds - self.spent, 0.0)


@dataclass(frozen=True, slots=True)
class Choice:
    """What became of one setting.

    Attributes:
        name: The setting.
        value: The chosen value.
        default: What it would have been without measuring.
        trials: What was measured against the default.
        left_out: What was not, each with the reason.
    """

    name: str
    value: Value
    default: Value
    trials: tuple[Trial, ...]
    left_out: tuple[tuple[Value, str], ...]


@dataclass(frozen=True, slots=True)
class Tuning:
    """What came of it all.

    Attributes:
        settings: As chosen.
        choices: One for each setting that was looked at, in that order.
        reading: Of a runner with these settings.
        batch_invariant: Whether a sequence's bits do not depend on the others.
        step_target_seconds: The scheduler's, for such a runner.
        seconds: How long it took.
    """

    settings: Settings
    choices: tuple[Choice, ...]
    reading: Reading
    batch_invariant: bool
    step_target_seconds: float
    seconds: float


class Search:
    """One search, coordinate by coordinate."""

    def __init__(
        self,
        info: ModelInfo,
        settings: Settings,
        clients: int,
        make_contender: Callable[[Settings], Contender],
        budget: Budget,
        on_progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Describe it.

        Args:
            info: The model.
            settings: What to begin with.
            clients: How many are served at the same time.
            make_contender: Makes a runner to measure; not started yet.
            budget: The time for all of it.
            on_progress: Told what is being measured.
        """
        self._info = info
        self._settings = settings
        self._clients = clients
        self._make_contender = make_contender
        self._budget = budget
        self._tell = on_progress
        self._reference = make_contender(settings)
        self._invariant = False
        self._load_seconds = 0.0
        self._measurement_seconds = 0.0

    async def run(self) -> Tuning:
        """Measure, and choose.

        Raises:
            TuningError: There is no time even for the defaults, or they fail.
            LoadError: The model cannot be loaded.
        """
        try:
            self._reading = await asyncio.wait_for(self._begin(), self._budget.left)
            choices = [await self._choose(place) for place in range(len(SETTINGS))]
        except asyncio.TimeoutError:
            seconds = f"{self._budget.seconds:.0f} s"
            message = f"the model cannot be loaded and measured within {seconds}"
            raise TuningError(f"{message}; --seconds allows it more") from None
        finally:
            await self._reference.close()
        target = step_target_seconds(self._reading, self._settings.prefill_chunk)
        return Tuning(
            self._settings,
            tuple(choices),
            self._reading,
            self._invariant,
            target,
            self._budget.spent,
        )

    async def _begin(self) -> Reading:
        """Load the defaults, and find out how fast they are and how much can be measured."""
        self._tell("loading the model")
        await self._reference.start()
        self._load_seconds = self._budget.spent
        self._invariant = self._reference.batch_invariant
        self._tell("measuring the defaults")
        began = self._budget.now()
        reading = await self._measure_reference(SMALLEST_EFFORT)
        self._effort = Effort.within(self._budget.seconds * MEASUREMENT_SHARE, reading)
        if self._effort != SMALLEST_EFFORT:
            began = self._budget.now()
            reading = await self._measure_reference(self._effort)
        self._measurement_seconds = self._budget.now() - began
        return reading

    async def _choose(self, place: int) -> Choice:
        """Choose the setting at a place of SETTINGS."""
        axis = self._axis(place)
        trials: list[Trial] = []
        left_out = list(axis.left_out)
        readings: list[Reading] = []
        for i, value in enumerate(axis.others):
            later = sum(len(self._axis(p).others) for p in range(place + 1, len(SETTINGS)))
            share = self._budget.left / (len(axis.others) - i + later)
            outcome = await self._try(axis, value, share, readings)
            if isinstance(outcome, Trial):
                trials.append(outcome)
            else:
                left_out.append((value, outcome))
        winner = fastest(trials, axis.margin)
        if winner is not None:
            self._settings = with_value(self._settings, axis.name, winner.value)
            self._reading, self._invariant = winner.reading, winner.batch_invariant
        elif readings:
            self._reading = median(readings)
        value = axis.default if winner is None else winner.value
        return Choice(axis.name, value, axis.default, tuple(trials), tuple(left_out))

    def _axis(self, place: int) -> Axis:
        return candidates.axis(
            SETTINGS[place], self._settings, self._info, self._clients, self._reading
        )

    async def _try(
        self, axis: Axis, value: Value, seconds: float, readings: list[Reading]
    ) -> Trial | str:
        """Measure a value against the default; a text says why that could not be done."""
        settings = with_value(self._settings, axis.name, value)
        loads = 1 + (self._reference.settings != self._settings)
        measurements = loads + 2 * ROUNDS_MIN
        each = self._measurement_seconds
        each *= self._effort_for(axis).prompt_tokens / self._effort.prompt_tokens
        needed = loads * self._load_seconds + measurements * each
        if needed > self._budget.left:
            return _NO_TIME
        if not candidates.room_for_another(settings, self._info):
            return _NO_MEMORY
        contender = self._make_contender(settings)
        try:
            comparing = self._compare(axis, value, contender, seconds, readings)
            return await asyncio.wait_for(comparing, self._budget.left)
        except asyncio.TimeoutError:
            return _NO_TIME
        except (LoadError, ModelError, MeasuringFailed) as error:
            return str(error)
        finally:
            await contender.close()

    async def _compare(
        self,
        axis: Axis,
        value: Value,
        contender: Contender,
        seconds: float,
        readings: list[Reading],
    ) -> Trial:
        """Rounds of both, one after the other, as many as fit the time that is its share."""
        end = self._budget.now() + seconds
        await self._refresh_reference()
        self._tell(f"{axis.name}: loading {value}")
        await contender.start()
        effort = self._effort_for(axis)
        # Memory is touched for the first time here.
        await contender.measure(effort)
        ratios: list[float] = []
        theirs: list[Reading] = []
        round_seconds = 0.0
        while len(ratios) < ROUNDS_MAX and not settled(ratios, axis.margin):
            began = self._budget.now()
            if len(ratios) >= ROUNDS_MIN and began + round_seconds > end:
                # What leads may take from the share of others until it is sure.
                unsure = len(ratios) < ROUNDS_TO_WIN and leads(ratios, axis.margin)
                if not unsure or round_seconds > self._budget.left:
                    break
            self._tell(f"{axis.name}: {value} and {axis.default} in turns, {len(ratios) + 1}")
            mine, its = await self._round(contender, effort, contender_first=len(ratios) % 2 == 0)
            readings.append(mine)
            theirs.append(its)
            ratios.append(its.tokens_per_second / mine.tokens_per_second)
            round_seconds = self._budget.now() - began
        return Trial(value, tuple(ratios), median(theirs), contender.batch_invariant)

    async def _round(
        self, contender: Contender, effort: Effort, *, contender_first: bool
    ) -> tuple[Reading, Reading]:
        """Measure both; they take turns in going first."""
        if contender_first:
            its = await contender.measure(effort)
            return await self._measure_reference(effort), its
        return await self._measure_reference(effort), await contender.measure(effort)

    async def _measure_reference(self, effort: Effort) -> Reading:
        try:
            return await self._reference.measure(effort)
        except MeasuringFailed as error:
            raise TuningError(f"a runner with the settings so far failed: {error}") from error

    async def _refresh_reference(self) -> None:
        """Have the reference run with what is chosen by now."""
        if self._reference.settings != self._settings:
            await self._reference.close()
            self._reference = self._make_contender(self._settings)
            self._tell("loading what is chosen so far")
            await self._reference.start()
            await self._measure_reference(self._effort)

    def _effort_for(self, axis: Axis) -> Effort:
        """Chunks show in prompts that are as long as the longest of them."""
        if axis.name != "prefill_chunk":
            return self._effort
        longest = max(int(value) for value in (axis.default, *axis.others))
        return self._effort._replace(prompt_tokens=max(self._effort.prompt_tokens, longest))
