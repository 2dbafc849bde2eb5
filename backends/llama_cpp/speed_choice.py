"""Attention, type of the cache, and unit of prompts: as set, remembered, or measured now.

Which attention is faster differs from processor to processor, by a factor of two in
both directions, and so does the length of chunk from which on prompts gain nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from llm_serving_engine.backends.backend import AUTO, BackendConfig, LoadError
from llm_serving_engine.backends.llama_cpp.model import LlamaModel
from llm_serving_engine.backends.llama_cpp.probe import keeps_bits
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.llama_cpp.tails import SHORT, TILE
from llm_serving_engine.backends.llama_cpp.timed_calls import (
    Call,
    CallTimer,
    CannotMeasure,
    Times,
)
from llm_serving_engine.backends.measured import Circumstances, Measured, MeasuredStore, Scalar

SUBJECT = "speed"
# The mix that attention is weighed by: a chat's prompt and answer, half of the slots
# busy; for each request at half of the context, three at a few hundred tokens.
PROMPT_TOKENS, OUTPUT_TOKENS = 400, 150
DEEP_SHARE = 0.25
# Chunks that fill a context up to a few hundred tokens.
FILL = (64, 128, 256)
# Seconds for all kinds of attention, and for the lengths of chunks.
ATTENTION_SECONDS, UNIT_SECONDS = 2.0, 1.0
# The context that attention is tried in; half of a longer one cannot be filled in time.
TRIED_CONTEXT_MAX = 1536
# What is slower by less is as fast. Attention that is not the default must gain more.
MARGIN, ATTENTION_MARGIN = 0.03, 0.05
# A model whose chunks are shorter is fast in any way, and chance would choose.
TILE_SECONDS_MIN = 0.005
LENGTHS = (64, 128, 32, 256, 512)
# Under batch_invariant every chunk has this length, and streams wait for it.
INVARIANT_LENGTHS = (64, 128, 256)
INVARIANT_SECONDS_MAX = 0.1

GoesOn = Callable[[], None]
CouldLoad = Callable[[Settings], bool]


class Attention(NamedTuple):
    """One way to compute attention.

    Attributes:
        flash: With the fused kernel.
        cache_type: How the cache is stored.
    """

    flash: bool
    cache_type: str

    @property
    def name(self) -> str:
        """In words."""
        return f"flash attention {'on' if self.flash else 'off'} with {self.cache_type}"


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
    store = _open_store(path)
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


def _kinds(config: BackendConfig, settings: Settings) -> tuple[Attention, ...]:
    """The kinds that the configuration leaves open, the default first."""
    default = Attention(settings.flash_attention, settings.cache_type)
    # Output that is computed again keeps its bits with the fused kernel only.
    if config.flash_attention != AUTO or config.batch_invariant or settings.gpu_layers:
        others: tuple[Attention, ...] = ()
    elif settings.cache_type == "f16":
        others = (Attention(False, "f16"),)
    else:
        others = ()
    compact = Attention(True, "q8_0")
    if config.cache_type == AUTO and config.flash_attention is not False:
        others = (*others, compact)
    return (default, *(kind for kind in others if kind != default))


def _given(config: BackendConfig, settings: Settings) -> dict[str, Scalar]:
    """What the choice depends on, beside model, build, and machine."""
    return {
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
    settings = model.settings
    tried: dict[Attention, Times] = {}
    for kind in kinds:
        context = min(settings.context_per_sequence, TRIED_CONTEXT_MAX)
        try:
            model.renew(replace(_with(settings, kind, max(FILL)), context_per_sequence=context))
        except LoadError:
            # llama.cpp refuses some models in this way.
            continue
        seconds = ATTENTION_SECONDS / len(kinds)
        tried[kind] = time_attention(CallTimer(model, seconds, goes_on), settings)
    kind = fastest_attention(tried, max(settings.sequences // 2, 1))
    reasons = [_attention_reason(tried, kind, settings)] if len(kinds) > 1 else []
    times, unit = dict(tried[kind]), settings.prefill_chunk
    if lengths:
        alone = replace(settings, sequences=1, context_per_sequence=context)
        model.renew(_with(alone, kind, max(lengths)))
        timer = CallTimer(model, UNIT_SECONDS, goes_on)
        of_lengths = time_lengths(timer, lengths)
        unit = fastest_length(of_lengths, config.batch_invariant)
        times |= of_lengths
        reasons.append(_unit_reason(of_lengths, unit))
    if config.batch_invariant:
        unit = _that_keeps_bits(model, settings, kind, unit)
    chosen = _with(settings, kind, unit)
    model.renew(chosen)
    return SpeedChoice(chosen, times, tuple(reasons))


def time_attention(timer: CallTimer, settings: Settings) -> Times:
    """Time rows and chunks at a few hundred tokens, and at half of the context if there is time.

    Raises:
        CannotMeasure: Others computed meanwhile, or the model is too small.
    """
    half = max(settings.sequences // 2, 1)
    counts = tuple(dict.fromkeys((half, settings.sequences, 4, 1)))
    timer.chunk(SHORT, 2)
    timer.chunk(TILE, 2)
    if timer.times.get(Call("chunk", TILE, 0), 0.0) < TILE_SECONDS_MIN:
        raise CannotMeasure("calls are too short to compare")
    timer.fill(*FILL)
    timer.rows(counts)
    timer.chunk(TILE, 2)
    timer.chunk(SHORT, 2)
    rest = settings.context_per_sequence // 2 - timer.context
    if rest > 0 and timer.affords(2 * rest):
        timer.fill(*[max(FILL)] * -(-rest // max(FILL)))
        timer.rows((half,))
        timer.chunk(TILE)
    return timer.close()


def fastest_attention(tried: Mapping[Attention, Times], rows: int) -> Attention:
    """The kind that is fastest for the mix; the first one where none gains enough.

    Args:
        tried: Times by kind, the default first.
        rows: Of half of the slots.
    """
    seconds = mix_seconds(tried, rows)
    default = next(iter(tried))
    best = min(seconds, key=lambda kind: seconds[kind])
    return best if seconds[best] * (1 + ATTENTION_MARGIN) <= seconds[default] else default


def mix_seconds(tried: Mapping[Attention, Times], rows: int) -> dict[Attention, float]:
    """Seconds of a request of the mix, by kind, at the contexts that all were timed at."""
    shared = [
        context
        for context in sorted({call.context for times in tried.values() for call in times})
        if all(
            {Call("rows", rows, context), Call("chunk", TILE, context)} <= times.keys()
            for times in tried.values()
        )
    ]
    if not shared:
        raise CannotMeasure("there was no time to measure")
    weights = {shared[0]: 1.0}
    if len(shared) > 1:
        weights = {shared[0]: 1 - DEEP_SHARE, shared[-1]: DEEP_SHARE}
    return {
        kind: sum(
            weight * _request_seconds(times, rows, context) for context, weight in weights.items()
        )
        for kind, times in tried.items()
    }


def _request_seconds(times: Times, rows: int, context: int) -> float:
    prompt = times[Call("chunk", TILE, context)] / TILE * PROMPT_TOKENS
    return prompt + times[Call("rows", rows, context)] / rows * OUTPUT_TOKENS


def time_lengths(timer: CallTimer, lengths: Iterable[int]) -> Times:
    """Time chunks of each length at the start of a context, and deep in it if there is time."""
    lengths = list(lengths)
    for size in lengths:
        if not timer.times or timer.affords(size):
            timer.chunk(size)
    timer.fill(max(FILL))
    if timer.context:
        for size in lengths:
            if timer.affords(size):
                timer.chunk(size)
    for size in lengths[:2]:
        if timer.affords(size):
            timer.chunk(size)
    return timer.close()


def length_seconds(times: Times) -> dict[int, float]:
    """Seconds of a token in chunks of each length; the mean of start and depth where both are."""
    chunks = {call: s / call.size for call, s in times.items() if call.kind == "chunk"}
    start = {call.size: s for call, s in chunks.items() if call.context == 0}
    deep = {call.size: s for call, s in chunks.items() if call.context > 0}
    # What was timed at both places is not compared with what was timed at one.
    slower = [deep[size] / start[size] for size in start if size in deep]
    ratio = sum(slower) / len(slower) if slower else 1.0
    return {size: (s + deep.get(size, s * ratio)) / 2 for size, s in start.items()}


def fastest_length(times: Times, batch_invariant: bool) -> int:
    """The shortest length that is within 3 % of the fastest.

    Under batch_invariant only of those that streams can wait for.
    """
    seconds = length_seconds(times)
    if batch_invariant:
        calls = {call.size: s for call, s in times.items() if call.kind == "chunk"}
        seconds = {
            size: s
            for size, s in seconds.items()
            if size in INVARIANT_LENGTHS and (size == TILE or calls[size] <= INVARIANT_SECONDS_MAX)
        }
    limit = min(seconds.values()) * (1 + MARGIN)
    return min(size for size, s in seconds.items() if s <= limit)


def _that_keeps_bits(model: LlamaModel, settings: Settings, kind: Attention, unit: int) -> int:
    """The unit, or the longest shorter one whose bits hold."""
    while unit > TILE:
        model.renew(_with(settings, kind, unit))
        if keeps_bits(model, unit):
            break
        unit //= 2
    return unit


def _attention_reason(
    tried: Mapping[Attention, Times], chosen: Attention, settings: Settings
) -> str:
    seconds = mix_seconds(tried, max(settings.sequences // 2, 1))
    ratios = (
        f"{took / seconds[chosen]:.2f} x the speed of {kind.name}"
        for kind, took in seconds.items()
        if kind != chosen
    )
    return f"{chosen.name}: measured {', '.join(ratios)}"


def _unit_reason(times: Times, unit: int) -> str:
    speeds = ", ".join(f"{n}: {1 / s:.0f}" for n, s in sorted(length_seconds(times).items()))
    return f"prompts in chunks of {unit}: measured tokens/s by length: {speeds}"


def _open_store(path: Path) -> MeasuredStore | None:
    try:
        return MeasuredStore(Circumstances.of(path))
    except OSError:
        return None
