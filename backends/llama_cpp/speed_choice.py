"""Attention, type of the cache, and unit of prompts: as set, remembered, or measured now.

Which attention is faster differs from processor to processor, by a factor of two in
both directions, and so does the length of chunk from which on prompts gain nothing.

Two choices are remembered: the attention, and the unit with it. The unit does not
depend on how many slots there are or how long they are, so it stays when they change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from llm_serving_engine.backends.backend import AUTO, BackendConfig, LoadError
from llm_serving_engine.backends.llama_cpp.attention import (
    DEPTH,
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
    EMPTY,
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
    INVARIANT_LENGTHS,
    LENGTHS,
    fastest_length,
    lengths_compared,
    time_lengths,
    unit_reason,
)
from llm_serving_engine.backends.measured import Measured, MeasuredStore, Scalar

# What can be open, in the order in which it is chosen, and the settings that it names.
ATTENTION, UNIT = "attention", "unit"
WORDS = {ATTENTION: "attention", UNIT: "prefill_chunk"}
NAMES = {ATTENTION: ("flash_attention", "cache_type"), UNIT: ("prefill_chunk",)}
# What is remembered of another way of measuring is measured again.
METHOD = 14
# Seconds for all that a load measures of attention and unit.
SECONDS_MAX = 2.8
# Of a choice that is not remembered.
AGAIN = " (beside other processes: the next load measures again)"
# Of a unit for which attention has left too little time.
LATER = "; the next load does"
# What doctor says of choices that no earlier load has made.
NOT_MEASURED = (
    "{} by default: not measured yet; the next load without other processes beside it measures "
    "and remembers"
)
# The cells of a slot in trials of a context's start, which are made sooner, and of a longer one:
# that is filled, and has room for the longest chunk; llama.cpp rounds up to it.
SHORT_CONTEXT = CONTEXT_UNIT
TRIED_CONTEXT = -(-(DEPTH + max(LENGTHS)) // CONTEXT_UNIT) * CONTEXT_UNIT
# Tokens of a call that is computed in trials even if there is little memory.
FILL_MAX = 256

GoesOn = Callable[[], None]
CouldLoad = Callable[[Settings], bool]
Candidates = Mapping[str, Sequence[tuple[Any, ...]]]
"""What is open, and the values of its settings that can be chosen."""


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
    undecided = list(trials.candidates)
    try:
        for subject, candidates in trials.candidates.items():
            made = memory.recall(subject, choice.settings, candidates)
            if made is None:
                made = trials.measure(subject, choice.settings)
                memory.keep(subject, choice.settings, made)
            choice = choice.then(made)
            undecided.remove(subject)
    except CannotMeasure as error:
        reason = f"{_listed(undecided)} by default: {error}"
        default = SpeedChoice(choice.settings, {}, (reason,), isinstance(error, TooSlow))
        for subject in undecided:
            memory.keep(subject, choice.settings, default)
        choice = choice.then(default)
    model.renew(choice.settings)
    model.clear_all()
    return choice


def remembered_speed(path: Path, config: BackendConfig, settings: Settings) -> SpeedChoice | None:
    """The choice of earlier loads with these settings, and what the next one measures.

    Returns None where all is set.
    """
    memory = _Memory(MeasuredStore.of(path), config)
    choice = SpeedChoice(settings, {}, ())
    open_choices = _open(config, settings)
    undecided = list(open_choices)
    for subject, candidates in open_choices.items():
        known = memory.recall(subject, choice.settings, candidates)
        if known is None:
            reason = NOT_MEASURED.format(_listed(undecided))
            return choice.then(SpeedChoice(choice.settings, {}, (reason,)))
        choice = choice.then(known)
        undecided.remove(subject)
    return choice if choice.reasons else None


def _listed(subjects: Iterable[str]) -> str:
    return " and ".join(WORDS[subject] for subject in subjects)


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


def _open(
    config: BackendConfig, settings: Settings, fits: CouldLoad = lambda settings: True
) -> Candidates:
    """What the configuration leaves open, of what fits into the memory; defaults come first."""
    filled = replace(settings, prefill_chunk=FILL_MAX)
    kinds = [kind for kind in _kinds(config, settings) if fits(_with(filled, kind))]
    lengths = INVARIANT_LENGTHS if config.batch_invariant else LENGTHS
    fitting = [(n,) for n in lengths if fits(replace(settings, prefill_chunk=n))]
    unit_open = config.prefill_chunk is None and not settings.gpu_layers and fitting
    return ({ATTENTION: kinds} if len(kinds) > 1 else {}) | ({UNIT: fitting} if unit_open else {})


def _with(settings: Settings, kind: Attention) -> Settings:
    return replace(settings, flash_attention=kind.flash, cache_type=kind.cache_type)


class _Memory:
    """What earlier loads have chosen, for a model file, a build, and a machine."""

    def __init__(self, store: MeasuredStore | None, config: BackendConfig) -> None:
        self._store = store
        self._config = config

    def recall(
        self, subject: str, settings: Settings, candidates: Sequence[tuple[Any, ...]]
    ) -> SpeedChoice | None:
        """What an earlier load has chosen of the candidates; None where there is nothing."""
        given = self._given(subject, settings)
        measured = self._store.recall(subject, given) if self._store else None
        if measured is None:
            return None
        values = tuple(measured.values.get(name) for name in NAMES[subject])
        # Of the candidate itself: what a file says may be equal, and of another type.
        known = next((candidate for candidate in candidates if candidate == values), None)
        if known is None:
            return None
        chosen: dict[str, Any] = dict(zip(NAMES[subject], known, strict=True))
        return _choice(measured, replace(settings, **chosen))

    def keep(self, subject: str, settings: Settings, choice: SpeedChoice) -> None:
        """Remember a lasting choice that was made for these settings."""
        if self._store and choice.lasting:
            given = self._given(subject, settings)
            values = {name: getattr(choice.settings, name) for name in NAMES[subject]}
            figures = {call.name: seconds for call, seconds in choice.times.items()}
            reason = "".join(choice.reasons)
            self._store.remember(Measured(subject, given, values, figures, reason))

    def _given(self, subject: str, settings: Settings) -> dict[str, Scalar]:
        """What a choice depends on: the unit not on slots, but on the attention."""
        given: dict[str, Scalar] = {
            "method": METHOD,
            "threads": settings.threads,
            "kernels": settings.kernels,
            "context": min(settings.context_per_sequence, TRIED_CONTEXT),
            "flash_attention": settings.flash_attention,
            "cache_type": settings.cache_type,
            "batch_invariant": self._config.batch_invariant,
        }
        if subject == ATTENTION:
            given |= {
                "sequences": settings.sequences,
                "flash_attention": str(self._config.flash_attention),
                "cache_type": self._config.cache_type,
                "gpu_layers": settings.gpu_layers,
            }
        return given


def _choice(measured: Measured, settings: Settings) -> SpeedChoice | None:
    """The choice of an earlier load; None where its times make no sense."""
    named = {Call.named(name): seconds for name, seconds in measured.figures.items()}
    times = {call: seconds for call, seconds in named.items() if call and seconds > 0}
    reason = f"{measured.reason} (remembered from {measured.date})"
    return SpeedChoice(settings, times, (reason,)) if times or not named else None


class _Trials:
    """Measures, in contexts with fewer and shorter slots than a server's: they are made sooner.

    Attributes:
        candidates: What is open, of what there is memory for.
    """

    def __init__(
        self, model: LlamaModel, config: BackendConfig, could_load: CouldLoad, goes_on: GoesOn
    ) -> None:
        self._model = model
        self._goes_on = goes_on
        self._invariant = config.batch_invariant
        self._settings = settings = model.settings
        self.candidates = _open(config, settings, could_load)
        self._lengths = [length for (length,) in self.candidates.get(UNIT, ())]
        self._rows = max(settings.sequences // 2, 1)
        self._long = replace(
            settings,
            sequences=self._rows,
            context_per_sequence=min(settings.context_per_sequence, TRIED_CONTEXT),
            prefill_chunk=max(self._lengths, default=FILL_MAX),
        )
        context = min(settings.context_per_sequence, SHORT_CONTEXT)
        self._short = replace(self._long, context_per_sequence=context, prefill_chunk=TILE)
        # Behind it, there is room for the two shortest lengths at least.
        self._depth = min(DEPTH, self._long.context_per_sequence - 2 * TILE)
        self._filled: dict[Attention, Filled] = {}
        self._seconds_left = SECONDS_MAX
        self._may_repeat = True

    def measure(self, subject: str, settings: Settings) -> SpeedChoice:
        """Measure and choose; once in a load again if others disturbed it: they may have ended.

        Raises:
            CannotMeasure: There is no time, others compute, or the model is too small.
        """
        method = self._attention if subject == ATTENTION else self._unit
        choice = method(settings)
        if choice.lasting or not self._may_repeat:
            return choice
        self._may_repeat = False
        return method(settings)

    def _attention(self, settings: Settings) -> SpeedChoice:
        """Time the kinds, and choose."""
        kinds = [Attention(*kind) for kind in self.candidates[ATTENTION]]
        self._check_threads()
        limit = TimeLimit(SECONDS_MAX)
        self._filled = time_attention(
            lambda kind, long: self._begin(kind, limit, long=long),
            kinds,
            self._rows,
            self._depth,
            limit,
        )
        tried = {kind: filled.times for kind, filled in self._filled.items()}
        self._seconds_left = limit.left
        disturbed = limit.others.disturbed()
        kind = fastest_attention(tried, self._rows, MARGIN_DISTURBED if disturbed else MARGIN)
        reason = attention_reason(tried, kind, self._rows) + AGAIN * disturbed
        return SpeedChoice(_with(settings, kind), tried[kind], (reason,), not disturbed)

    def _unit(self, settings: Settings) -> SpeedChoice:
        """Time chunks of all lengths with the attention of the settings, and choose.

        Where attention has left no time for that, the next load, which knows the attention, does.
        """
        self._check_threads()
        limit = TimeLimit(self._seconds_left)
        kind = Attention(settings.flash_attention, settings.cache_type)
        filled = self._filled.get(kind, EMPTY)
        times = filled.times
        if filled.token_seconds * sum(LENGTHS[:2]) <= self._seconds_left:
            timer = self._begin(kind, limit, long=True)
            if timer is None:
                raise CannotMeasure("llama.cpp refused the context")
            timer.resume(filled)
            times = time_lengths(timer, self._lengths, self._rows, self._depth)
        if self._filled and not lengths_compared(times):
            self._may_repeat = False
            reason = unit_reason(times, settings.prefill_chunk) + LATER
            return SpeedChoice(settings, times, (reason,), lasting=False)
        disturbed = limit.others.disturbed()
        unit = fastest_length(times, self._invariant, disturbed)
        reason = unit_reason(times, unit) + AGAIN * disturbed
        while self._invariant and unit > TILE and not self._keeps_bits(settings, unit):
            unit //= 2
        return SpeedChoice(replace(settings, prefill_chunk=unit), times, (reason,), not disturbed)

    def _check_threads(self) -> None:
        """Raise CannotMeasure where fewer threads compute than later will."""
        if self._model.threads < self._settings.threads:
            raise CannotMeasure(OTHERS_COMPUTE)

    def _begin(self, kind: Attention, limit: TimeLimit, *, long: bool) -> CallTimer | None:
        """An empty context of a kind; None where llama.cpp refuses it."""
        try:
            self._model.renew(_with(self._long if long else self._short, kind))
        except LoadError:
            return None
        self._model.clear_all()
        return CallTimer(self._model, limit, self._goes_on)

    def _keeps_bits(self, settings: Settings, unit: int) -> bool:
        self._model.renew(replace(settings, prefill_chunk=unit))
        return keeps_bits(self._model, unit)
