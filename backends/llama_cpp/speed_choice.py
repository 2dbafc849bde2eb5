"""Attention, type of the cache, and unit of prompts: as set, remembered, or measured now.

Which attention is faster differs from processor to processor, by a factor of two in
both directions, and so does the length of chunk from which on prompts gain nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from llm_serving_engine.backends.backend import AUTO, BackendConfig, LoadError
from llm_serving_engine.backends.llama_cpp.attention import (
    FILL,
    Attention,
    Trials,
    attention_reason,
    fastest_attention,
    time_attention,
)
from llm_serving_engine.backends.llama_cpp.model import LlamaModel
from llm_serving_engine.backends.llama_cpp.probe import keeps_bits
from llm_serving_engine.backends.llama_cpp.settings import CONTEXT_UNIT, Settings
from llm_serving_engine.backends.llama_cpp.tails import TILE
from llm_serving_engine.backends.llama_cpp.timed_calls import (
    Call,
    CallTimer,
    CannotMeasure,
    TimeLimit,
    Times,
)
from llm_serving_engine.backends.llama_cpp.unit import (
    LENGTHS,
    fastest_length,
    time_lengths,
    unit_reason,
)
from llm_serving_engine.backends.measured import Measured, MeasuredStore, Scalar

SUBJECT = "speed"
# What is remembered of another way of measuring is measured again.
METHOD = 3
# Seconds for all that is measured, and for the kinds of attention of it.
SECONDS_MAX, ATTENTION_SECONDS_MAX = 3.0, 2.0
# The cells of a slot in trials: as many as attention is tried with, and a row; llama.cpp
# rounds up to it.
TRIED_CONTEXT = -(-(sum(FILL) + 1) // CONTEXT_UNIT) * CONTEXT_UNIT

GoesOn = Callable[[], None]
CouldLoad = Callable[[Settings], bool]


class SpeedChoice(NamedTuple):
    """What a model is served with.

    Attributes:
        settings: With attention and unit chosen.
        times: Calls that were timed with them; empty where nothing was.
        reasons: Why, a sentence each.
    """

    settings: Settings
    times: Times
    reasons: tuple[str, ...]


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
    settings = model.settings
    wished = _kinds(config, settings)
    kinds = tuple(k for k in wished if could_load(_with(settings, k, max(FILL)))) or wished[:1]
    lengths = [n for n in LENGTHS if could_load(replace(settings, prefill_chunk=n))]
    unit_open = config.prefill_chunk is None and not settings.gpu_layers
    if not model.cache.unlimited or (len(kinds) == 1 and not unit_open):
        return SpeedChoice(settings, {}, ())
    store = MeasuredStore.of(path)
    key = _given(config, settings)
    remembered = store.recall(SUBJECT, key) if store else None
    choice = _remembered(remembered, settings, kinds, lengths) if remembered else None
    if choice is not None:
        model.renew(choice.settings)
        return choice
    try:
        choice = _measure(model, config, kinds, lengths if unit_open else [], goes_on)
    except CannotMeasure as error:
        model.renew(settings)
        model.clear_all()
        return SpeedChoice(settings, {}, (f"attention and unit are defaults: {error}",))
    if store:
        store.remember(_measured(key, choice))
    return choice


def remembered_speed(path: Path, config: BackendConfig, settings: Settings) -> SpeedChoice | None:
    """The choice of an earlier load with these settings; None where it is to be measured."""
    store = MeasuredStore.of(path)
    remembered = store.recall(SUBJECT, _given(config, settings)) if store else None
    if remembered is None:
        return None
    return _remembered(remembered, settings, _kinds(config, settings), list(LENGTHS))


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


def _given(config: BackendConfig, settings: Settings) -> dict[str, Scalar]:
    """What the choice depends on, beside model, build, and machine."""
    return {
        "method": METHOD,
        "threads": settings.threads,
        "kernels": settings.kernels,
        "sequences": settings.sequences,
        "context": settings.context_per_sequence,
        "flash_attention": str(config.flash_attention),
        "cache_type": config.cache_type,
        "prefill_chunk": config.prefill_chunk or 0,
        "gpu_layers": settings.gpu_layers,
        "batch_invariant": config.batch_invariant,
    }


def _measured(key: Mapping[str, Scalar], choice: SpeedChoice) -> Measured:
    settings = choice.settings
    values: dict[str, Scalar] = {
        "flash_attention": settings.flash_attention,
        "cache_type": settings.cache_type,
        "prefill_chunk": settings.prefill_chunk,
    }
    figures = {call.name: seconds for call, seconds in choice.times.items()}
    return Measured(SUBJECT, key, values, figures, "; ".join(choice.reasons))


def _remembered(
    measured: Measured, settings: Settings, kinds: tuple[Attention, ...], lengths: list[int]
) -> SpeedChoice | None:
    """The choice of an earlier load; None where it makes no sense any more."""
    values = measured.values
    kind = Attention(bool(values.get("flash_attention")), str(values.get("cache_type")))
    unit = int(values.get("prefill_chunk", 0))
    named = {Call.named(name): seconds for name, seconds in measured.figures.items()}
    times = {call: seconds for call, seconds in named.items() if call and seconds > 0}
    if kind not in kinds or unit not in (*lengths, settings.prefill_chunk) or not times:
        return None
    chosen = _with(settings, kind, unit)
    return SpeedChoice(chosen, times, (f"{measured.reason} (remembered from {measured.date})",))


def _with(settings: Settings, kind: Attention, unit: int) -> Settings:
    flash, cache_type = kind
    return replace(settings, flash_attention=flash, cache_type=cache_type, prefill_chunk=unit)


# Measuring


def _measure(
    model: LlamaModel,
    config: BackendConfig,
    kinds: tuple[Attention, ...],
    lengths: list[int],
    goes_on: GoesOn,
) -> SpeedChoice:
    """Choose by trials in contexts with fewer and shorter slots: they are made sooner."""
    settings, limit = model.settings, TimeLimit(SECONDS_MAX)
    rows = max(settings.sequences // 2, 1)
    trial = replace(
        settings,
        sequences=rows,
        context_per_sequence=min(settings.context_per_sequence, TRIED_CONTEXT),
    )
    longest = max(lengths, default=max(FILL))
    times: dict[Call, float] = {}
    kind, unit, reasons = kinds[0], settings.prefill_chunk, []
    timer: CallTimer | None = None
    if len(kinds) > 1:
        tried, timer = _try(model, trial, longest, kinds, goes_on)
        kind = fastest_attention(tried, rows)
        times |= tried[kind]
        reasons.append(attention_reason(tried, kind, rows))
    if lengths:
        if timer is None or model.settings != _with(trial, kind, longest):
            model.renew(_with(trial, kind, longest))
            timer = CallTimer(model, limit, goes_on)
        timer.limit = limit
        of_lengths = time_lengths(timer, lengths, (1, 4))
        unit = fastest_length(of_lengths, config.batch_invariant)
        times |= of_lengths
        reasons.append(unit_reason(of_lengths, unit))
    if config.batch_invariant:
        unit = _that_keeps_bits(model, settings, kind, unit)
    chosen = _with(settings, kind, unit)
    model.renew(chosen)
    model.clear_all()
    return SpeedChoice(chosen, times, tuple(filter(None, reasons)))


def _try(
    model: LlamaModel,
    trial: Settings,
    longest: int,
    kinds: tuple[Attention, ...],
    goes_on: GoesOn,
) -> Trials:
    """Time the kinds of attention."""
    limit = TimeLimit(ATTENTION_SECONDS_MAX)

    def begin(kind: Attention) -> CallTimer | None:
        try:
            model.renew(_with(trial, kind, longest))
        except LoadError:
            # llama.cpp refuses some models in this way.
            return None
        model.clear_all()
        return CallTimer(model, limit, goes_on)

    return time_attention(begin, kinds, trial.sequences, limit)


def _that_keeps_bits(model: LlamaModel, settings: Settings, kind: Attention, unit: int) -> int:
    """The unit, or the longest shorter one whose bits hold."""
    while unit > TILE:
        model.renew(_with(settings, kind, unit))
        if keeps_bits(model, unit):
            break
        unit //= 2
    return unit
