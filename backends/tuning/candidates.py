"""What there is to choose between, on a machine and for a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.llama_cpp.kernel_times import Weights, distinct_kinds
from llm_serving_engine.backends.llama_cpp.kernels import Kernels
from llm_serving_engine.backends.llama_cpp.settings import (
    CACHE_SHARE,
    CACHE_TYPES,
    SEQUENCES,
    SEQUENCES_MAX,
    Settings,
)
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.tuning.decision import STEP_TARGET_MAX_SECONDS, Value
from llm_serving_engine.backends.tuning.reading import Reading

# In the order of what they gain, the most first.
SETTINGS = ("threads", "kernels", "sequences", "cache_type", "prefill_chunk")

MARGIN = 0.03
# A larger chunk makes gaps less even, and prefixes under `determinism` coarser.
CHUNK_MARGIN = 0.05
CHUNKS = (64, 128, 256, 512)
_Q8_0_BLOCK = 32  # elements of a head that are stored together
# A runner's buffers and libraries, beside weights and cache.
_RUNNER_BYTES = 300_000_000


@dataclass(frozen=True, slots=True)
class Axis:
    """One setting and the values that it could have.

    Attributes:
        name: The setting, a field of Settings.
        default: What it is while nothing better is known.
        others: What to measure against that.
        left_out: What not to measure, each with the reason.
        margin: By how much another value must be faster to be chosen.
    """

    name: str
    default: Value
    others: tuple[Value, ...] = ()
    left_out: tuple[tuple[Value, str], ...] = ()
    margin: float = MARGIN


def plan(info: ModelInfo, clients: int, context: int | None) -> Settings:
    """What to begin with: the defaults, with the smaller cache type where memory demands it.

    Args:
        info: The model.
        clients: How many are served at the same time.
        context: Tokens of each; None for the default.

    Raises:
        LoadError: The model cannot have that context.
    """
    config = BackendConfig(context_per_sequence=context, kernels=_kinds(info)[0])
    settings = Settings.choose(config, info)
    if settings.sequences < min(clients, SEQUENCES) and _takes_q8_0(info):
        compact = Settings.choose(replace(config, cache_type="q8_0"), info)
        if compact.sequences > settings.sequences:
            return compact
    return settings


def axis(
    name: str, settings: Settings, info: ModelInfo, clients: int, reading: Reading | None = None
) -> Axis:
    """The choices for one setting, the others being as they are.

    Args:
        name: One of SETTINGS.
        settings: What is chosen so far.
        info: The model.
        clients: How many are served at the same time.
        reading: Of a runner with these settings, where there is one.
    """
    if name == "threads":
        return Axis(name, settings.threads, _thread_counts(settings.threads))
    if name == "kernels":
        others = [kind for kind in _kinds(info) if kind != settings.kernels]
        return Axis(name, settings.kernels, tuple(others) if len(_kinds(info)) > 1 else ())
    if name == "sequences":
        return _sequences(settings, info, clients)
    if name == "cache_type":
        return _cache_types(settings, info)
    return _chunks(settings, reading)


def with_value(settings: Settings, name: str, value: Value) -> Settings:
    """The settings with another value for the one called `name`."""
    change: dict[str, Any] = {name: value}
    return replace(settings, **change)


def cache_bytes(settings: Settings, info: ModelInfo) -> int:
    """Memory of all sequences' cache."""
    element_bytes = CACHE_TYPES[settings.cache_type]
    return settings.sequences * info.sequence_bytes(settings.context_per_sequence, element_bytes)


def room_for_another(settings: Settings, info: ModelInfo) -> bool:
    """Whether one more runner with these settings fits the memory that is free."""
    needed = info.weights_bytes + cache_bytes(settings, info) + _RUNNER_BYTES
    return needed <= machine.available_memory()


def _kinds(info: ModelInfo) -> tuple[str, ...]:
    """The kinds of kernels that differ for a model, the one that llama.cpp prefers first."""
    return distinct_kinds(Kernels(), Weights.of(info))


def _thread_counts(default: int) -> tuple[Value, ...]:
    """Fewer, as memory may be the limit and the server needs a core too; and all with SMT."""
    counts = {default // 2, default * 3 // 4, default - 1, machine.logical_cores()}
    return tuple(sorted(count for count in counts - {default} if count >= 1))


def _sequences(settings: Settings, info: ModelInfo, clients: int) -> Axis:
    default = settings.sequences
    # More than clients are never busy: only what makes more or fewer rows is of interest.
    busy = min(clients, SEQUENCES_MAX)
    counts = sorted({busy // 2, busy} - {0, min(default, busy)})
    return _within_memory(
        Axis("sequences", default),
        [replace(settings, sequences=count) for count in counts],
        info,
    )


def _cache_types(settings: Settings, info: ModelInfo) -> Axis:
    types = [one for one in CACHE_TYPES if one != settings.cache_type]
    start = Axis("cache_type", settings.cache_type)
    if not _takes_q8_0(info):
        reason = f"heads of this model are no multiple of {_Q8_0_BLOCK} wide"
        return replace(start, left_out=tuple((one, reason) for one in types))
    return _within_memory(start, [replace(settings, cache_type=one) for one in types], info)


def _chunks(settings: Settings, reading: Reading | None) -> Axis:
    others, left_out = [], []
    for chunk in CHUNKS:
        seconds = chunk * reading.prefill_token_seconds if reading else 0.0
        if chunk == settings.prefill_chunk:
            continue
        if seconds > STEP_TARGET_MAX_SECONDS:
            limit = f"longer than the {STEP_TARGET_MAX_SECONDS} s that a step may"
            left_out.append((chunk, f"it takes {seconds:.2f} s, {limit}"))
        elif 2 * chunk > settings.context_per_sequence:
            left_out.append((chunk, "it is more than half of a sequence's context"))
        else:
            others.append(chunk)
    return Axis(
        "prefill_chunk", settings.prefill_chunk, tuple(others), tuple(left_out), CHUNK_MARGIN
    )


def _within_memory(start: Axis, candidates: Iterable[Settings], info: ModelInfo) -> Axis:
    """The axis with those candidates whose cache fits the share of memory it is to take."""
    limit = machine.available_memory() * CACHE_SHARE
    others: list[Value] = []
    left_out: list[tuple[Value, str]] = []
    for candidate in candidates:
        value, needed = getattr(candidate, start.name), cache_bytes(candidate, info)
        if needed <= limit:
            others.append(value)
        else:
            reason = f"its cache takes {needed / 1e9:.1f} GB, and {limit / 1e9:.1f} GB is what a"
            left_out.append((value, f"{reason} cache may take of the free memory"))
    return replace(start, others=tuple(others), left_out=tuple(left_out))


def _takes_q8_0(info: ModelInfo) -> bool:
    return info.key_length % _Q8_0_BLOCK == 0 and info.value_length % _Q8_0_BLOCK == 0
