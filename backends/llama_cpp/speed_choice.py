"""Attention, type of the cache, and unit of prompts: as set, remembered, or measured now.

Which attention is faster differs from processor to processor, by a factor of two in
both directions, and so does the length of chunk from which on prompts gain nothing.

Two choices are remembered: the attention, and the unit with it. The unit does not
depend on how many slots there are or how long they are, so it stays when they change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from llm_serving_engine.backends.backend import AUTO, BackendConfig, LoadError
from llm_serving_engine.backends.llama_cpp.attention import (
    FILL,
    MARGIN,
    MARGIN_DISTURBED,
    Attention,
    attention_reason,
    fastest_attention,
    time_attention,
)
from llm_serving_engine.backends.llama_cpp.model import LlamaModel
from llm_serving_engine.backends.llama_cpp.probe import keeps_bits
from llm_serving_engine.backends.llama_cpp.settings import CONTEXT_UNIT, Settings
from llm_serving_engine.backends.llama_cpp.tails import TILE
from llm_serving_engine.backends.llama_cpp.timed_calls import (
    OTHERS_COMPUTE,
    Call,
    CallTimer,
    CannotMeasure,
    Filled,
    TimeLimit,
    Times,
    TooSlow,
)
from llm_serving_engine.backends.llama_cpp.unit import (
    DEPTH,
    INVARIANT_LENGTHS,
    LENGTHS,
    fastest_length,
    time_lengths,
    unit_reason,
)
from llm_serving_engine.backends.measured import Measured, MeasuredStore, Scalar

ATTENTION, UNIT = "attention", "unit"
# What is remembered of another way of measuring is measured again.
METHOD = 7
# Seconds for all that a load measures of attention and unit, and for the kinds of attention.
SECONDS_MAX, ATTENTION_SECONDS_MAX = 2.5, 2.0
# Of a choice that is not remembered.
AGAIN = " (beside other processes: the next load measures again)"
# What doctor says where no earlier load has chosen.
NOT_MEASURED = (
    "attention and unit are not measured yet: the first load without other processes beside it "
    "measures and remembers them"
)
# The cells of a slot in trials: the context that is filled, and the longest chunk behind
# it; llama.cpp rounds up to it.
TRIED_CONTEXT = -(-(DEPTH + max(LENGTHS)) // CONTEXT_UNIT) * CONTEXT_UNIT

GoesOn = Callable[[], None]
CouldLoad = Callable[[Settings], bool]


class SpeedChoice(NamedTuple):
    """What a model is served with.

    Attributes:
        settings: With attention and unit chosen.
        times: Calls that were timed with them; empty where nothing was.
        reasons: Why, a sentence each.
        lasting: Whether later loads may take it.
    """

    settings: Settings
    times: Times
    reasons: tuple[str, ...]
    lasting: bool = True

    def then(self, later: SpeedChoice) -> SpeedChoice:
        """Both choices: the settings of the later one, and what was timed for each."""
        return SpeedChoice(
            later.settings,
            {**self.times, **later.times},
            tuple(dict.fromkeys(self.reasons + later.reasons)),
            self.lasting and later.lasting,
        )


def choose_speed(
    model: LlamaModel, path: Path, config: BackendConfig, could_load: CouldLoad, goes_on: GoesOn
) -> SpeedChoice:
    """Choose what the configuration leaves open, and leave the model with it.

    Args:
        model: Just loaded, with default settings.
        path: Its file.
        config: What is set, and what is open.
        could_load: Whether there is memory for other settings.
        goes_on: Told after each call.
    """
    choice = SpeedChoice(model.settings, {}, ())
    if not model.cache.unlimited:
        return choice
    memory = _Memory(MeasuredStore.of(path), config)
    trials = _Trials(model, config, could_load, goes_on)
    open_choices = "attention and unit are defaults"
    try:
        if len(trials.kinds) > 1:
            choice = choice.then(_attention(memory, trials, choice.settings))
        open_choices = "the unit is a default"
        if trials.lengths:
            choice = choice.then(_unit(memory, trials, choice.settings))
    except CannotMeasure as error:
        reason = (f"{open_choices}: {error}",)
        default = SpeedChoice(choice.settings, {}, reason, isinstance(error, TooSlow))
        if len(trials.kinds) > 1 and not choice.reasons:
            memory.keep_attention(default.settings, default)
        if trials.lengths:
            memory.keep_unit(default.settings, default)
        choice = choice.then(default)
    model.renew(choice.settings)
    model.clear_all()
    return choice


def _attention(memory: _Memory, trials: _Trials, settings: Settings) -> SpeedChoice:
    remembered = memory.attention(settings, trials.kinds)
    if remembered:
        return remembered
    measured = trials.undisturbed(trials.attention)
    memory.keep_attention(settings, measured)
    return measured


def _unit(memory: _Memory, trials: _Trials, settings: Settings) -> SpeedChoice:
    remembered = memory.unit(settings, trials.lengths)
    if remembered:
        return remembered
    measured = trials.undisturbed(lambda: trials.unit(settings))
    memory.keep_unit(settings, measured)
    return measured


def remembered_speed(path: Path, config: BackendConfig, settings: Settings) -> SpeedChoice | None:
    """The choice of an earlier load with these settings.

    Returns:
        None where all is set. Without times where the next load measures.
    """
    memory = _Memory(MeasuredStore.of(path), config)
    kinds = _kinds(config, settings)
    unmeasured = SpeedChoice(settings, {}, (NOT_MEASURED,))
    choice: SpeedChoice | None = None
    if len(kinds) > 1:
        choice = memory.attention(settings, kinds) or unmeasured
    if _unit_open(config, settings) and choice != unmeasured:
        unit = memory.unit(choice.settings if choice else settings, LENGTHS) or unmeasured
        choice = choice.then(unit) if choice and unit != unmeasured else unit
    return choice


def _kinds(config: BackendConfig, settings: Settings) -> tuple[Attention, ...]:
    """The kinds that the configuration leaves open, the default first."""
    default = Attention(settings.flash_attention, settings.cache_type)
    others = []
    # Output that is computed again keeps its bits with the fused kernel only.
    flash_set = config.flash_attention != AUTO or config.batch_invariant or settings.gpu_layers
    if settings.cache_type == "f16" and not flash_set:
        others.append(Attention(False, "f16"))
    if config.cache_type == AUTO and config.flash_attention is not False:
        others.append(Attention(True, "q8_0"))
    return (default, *(kind for kind in others if kind != default))


def _unit_open(config: BackendConfig, settings: Settings) -> bool:
    return config.prefill_chunk is None and not settings.gpu_layers


def _with(settings: Settings, kind: Attention) -> Settings:
    return replace(settings, flash_attention=kind.flash, cache_type=kind.cache_type)


class _Memory:
    """What earlier loads have chosen, for a model file, a build, and a machine."""

    def __init__(self, store: MeasuredStore | None, config: BackendConfig) -> None:
        self._store = store
        self._config = config

    def attention(self, settings: Settings, kinds: tuple[Attention, ...]) -> SpeedChoice | None:
        """The settings with the attention of an earlier load; None where there is none."""
        measured = self._recall(ATTENTION, self._attention_key(settings))
        if measured is None:
            return None
        flash, cache_type = (measured.values.get(n) for n in ("flash_attention", "cache_type"))
        kind = Attention(bool(flash), str(cache_type))
        return _choice(measured, _with(settings, kind)) if kind in kinds else None

    def keep_attention(self, settings: Settings, choice: SpeedChoice) -> None:
        """Remember a lasting choice that was made for these settings."""
        chosen = choice.settings
        values: dict[str, Scalar] = {
            "flash_attention": chosen.flash_attention,
            "cache_type": chosen.cache_type,
        }
        self._remember(ATTENTION, self._attention_key(settings), values, choice)

    def unit(self, settings: Settings, lengths: tuple[int, ...]) -> SpeedChoice | None:
        """The settings with the unit of an earlier load; None where there is none."""
        measured = self._recall(UNIT, self._unit_key(settings))
        unit = measured.values.get("prefill_chunk") if measured else None
        if measured is None or not isinstance(unit, int) or unit not in lengths:
            return None
        return _choice(measured, replace(settings, prefill_chunk=unit))

    def keep_unit(self, settings: Settings, choice: SpeedChoice) -> None:
        """Remember a lasting choice that was made for these settings."""
        values: dict[str, Scalar] = {"prefill_chunk": choice.settings.prefill_chunk}
        self._remember(UNIT, self._unit_key(settings), values, choice)

    def _attention_key(self, settings: Settings) -> dict[str, Scalar]:
        return {
            "method": METHOD,
            "threads": settings.threads,
            "kernels": settings.kernels,
            "sequences": settings.sequences,
            "context": min(settings.context_per_sequence, TRIED_CONTEXT),
            "flash_attention": str(self._config.flash_attention),
            "cache_type": self._config.cache_type,
            "gpu_layers": settings.gpu_layers,
            "batch_invariant": self._config.batch_invariant,
        }

    def _unit_key(self, settings: Settings) -> dict[str, Scalar]:
        return {
            "method": METHOD,
            "threads": settings.threads,
            "kernels": settings.kernels,
            "context": min(settings.context_per_sequence, TRIED_CONTEXT),
            "flash_attention": settings.flash_attention,
            "cache_type": settings.cache_type,
            "batch_invariant": self._config.batch_invariant,
        }

    def _recall(self, subject: str, key: Mapping[str, Scalar]) -> Measured | None:
        return self._store.recall(subject, key) if self._store else None

    def _remember(
        self,
        subject: str,
        key: Mapping[str, Scalar],
        values: Mapping[str, Scalar],
        choice: SpeedChoice,
    ) -> None:
        if self._store and choice.lasting:
            figures = {call.name: seconds for call, seconds in choice.times.items()}
            self._store.remember(Measured(subject, key, values, figures, "".join(choice.reasons)))


def _choice(measured: Measured, settings: Settings) -> SpeedChoice | None:
    """The choice of an earlier load; None where its times make no sense."""
    named = {Call.named(name): seconds for name, seconds in measured.figures.items()}
    times = {call: seconds for call, seconds in named.items() if call and seconds > 0}
    reason = f"{measured.reason} (remembered from {measured.date})"
    return SpeedChoice(settings, times, (reason,)) if times or not named else None


class _Trials:
    """Measures, in contexts with fewer and shorter slots than a server's: they are made sooner.

    Attributes:
        kinds: Of attention, that are open and that there is memory for; the default first.
        lengths: Of chunks, likewise; none where the unit is set.
    """

    def __init__(
        self, model: LlamaModel, config: BackendConfig, could_load: CouldLoad, goes_on: GoesOn
    ) -> None:
        self._model = model
        self._goes_on = goes_on
        self._invariant = config.batch_invariant
        self._settings = settings = model.settings
        wished = _kinds(config, settings)
        longest = replace(settings, prefill_chunk=max(FILL))
        self.kinds = tuple(k for k in wished if could_load(_with(longest, k))) or wished[:1]
        lengths = INVARIANT_LENGTHS if config.batch_invariant else LENGTHS
        fitting = (n for n in lengths if could_load(replace(settings, prefill_chunk=n)))
        self.lengths = tuple(fitting) if _unit_open(config, settings) else ()
        self._rows = max(settings.sequences // 2, 1)
        self._trial = replace(
            settings,
            sequences=self._rows,
            context_per_sequence=min(settings.context_per_sequence, TRIED_CONTEXT),
            prefill_chunk=max(self.lengths, default=max(FILL)),
        )
        self._filled: dict[Attention, Filled] = {}
        self._seconds_left = SECONDS_MAX
        self._may_repeat = True

    def undisturbed(self, measure: Callable[[], SpeedChoice]) -> SpeedChoice:
        """Measure; once in a load again if others disturbed it: they may have been ending."""
        choice = measure()
        if choice.lasting or not self._may_repeat:
            return choice
        self._may_repeat = False
        return measure()

    def attention(self) -> SpeedChoice:
        """Time the kinds, and choose. Raises CannotMeasure."""
        self._check_threads()
        limit = TimeLimit(ATTENTION_SECONDS_MAX)
        tried, self._filled = time_attention(
            lambda kind: self._begin(kind, limit), self.kinds, self._rows, limit
        )
        self._seconds_left = SECONDS_MAX - limit.others.elapsed
        disturbed = limit.others.disturbed()
        kind = fastest_attention(tried, self._rows, MARGIN_DISTURBED if disturbed else MARGIN)
        reason = attention_reason(tried, kind, self._rows) + AGAIN * disturbed
        return SpeedChoice(_with(self._settings, kind), tried[kind], (reason,), not disturbed)

    def unit(self, settings: Settings) -> SpeedChoice:
        """Time chunks of all lengths with the attention of the settings, and choose.

        Raises:
            CannotMeasure: Others compute, or llama.cpp cannot make the context.
        """
        self._check_threads()
        limit = TimeLimit(self._seconds_left)
        kind = Attention(settings.flash_attention, settings.cache_type)
        timer = self._begin(kind, limit)
        if timer is None:
            raise CannotMeasure("llama.cpp refused the context")
        if kind in self._filled:
            timer.resume(self._filled[kind])
        times = time_lengths(timer, self.lengths, (1, 4))
        disturbed = limit.others.disturbed()
        unit = fastest_length(times, self._invariant, disturbed)
        reason = unit_reason(times, unit)
        reasons = (reason + AGAIN * disturbed,) * bool(reason)
        while self._invariant and unit > TILE and not self._keeps_bits(settings, unit):
            unit //= 2
        return SpeedChoice(replace(settings, prefill_chunk=unit), times, reasons, not disturbed)

    def _check_threads(self) -> None:
        """Raise CannotMeasure where fewer threads compute than later will."""
        if self._model.threads < self._settings.threads:
            raise CannotMeasure(OTHERS_COMPUTE)

    def _begin(self, kind: Attention, limit: TimeLimit) -> CallTimer | None:
        """An empty context of a kind; None where llama.cpp refuses it."""
        try:
            self._model.renew(_with(self._trial, kind))
        except LoadError:
            return None
        self._model.clear_all()
        return CallTimer(self._model, limit, self._goes_on)

    def _keeps_bits(self, settings: Settings, unit: int) -> bool:
        self._model.renew(replace(settings, prefill_chunk=unit))
        return keeps_bits(self._model, unit)
