"""Which kernels a model is loaded for: what is set, what is remembered, or what is measured now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from llm_serving_engine.backends.backend import AUTO
from llm_serving_engine.backends.llama_cpp import kernel_times
from llm_serving_engine.backends.llama_cpp.kernel_times import CannotMeasure, KernelTimes, Weights
from llm_serving_engine.backends.llama_cpp.kernels import Kernels, fastest
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.measured import (
    Measured,
    MeasuredStore,
    Scalar,
)
from llm_serving_engine.backends.models.info import ModelInfo

SUBJECT = "kernels"
AS_SET = "as set"
ONLY_KIND = "the only kind that llama.cpp has for these weights on this processor"
# What is slower by less is as fast: two measurements of the same differ by as much.
MARGIN = 0.03
_WEIGHTS_SUBJECT = "weight_type"
# Types that are computed with as they are, where a processor has nothing better for them.
UNQUANTIZED = frozenset({"F32", "F16", "BF16"})
COMPACT = "Q8_0"
# What is gained by less is not worth another file.
GAIN_MIN = 1.25

Measure = Callable[[Kernels, Weights, tuple[str, ...], int, int], Mapping[str, KernelTimes]]


class KernelChoice(NamedTuple):
    """The kind to load for.

    Attributes:
        kind: Its name.
        reason: Why, in a few words.
    """

    kind: str
    reason: str


class KernelNotes(NamedTuple):
    """What an operator should know of the kernels.

    Attributes:
        kernels: The kind, and why.
        slow_weights: That the processor has no fast kernels for these weights, and
            what helps; empty where it has.
    """

    kernels: str
    slow_weights: str

    def sentences(self) -> tuple[str, ...]:
        """Those that tell more than the settings do."""
        obvious = self.kernels.endswith((AS_SET, ONLY_KIND))
        kernels = "" if obvious else f"kernels {self.kernels}"
        return tuple(filter(None, (kernels, self.slow_weights)))


def with_kernels(
    settings: Settings, info: ModelInfo, batch_invariant: bool
) -> tuple[Settings, KernelNotes]:
    """The settings with the kernels chosen, and what an operator should know of it.

    Raises:
        LoadError: This processor does not have the kind that is set.
        LibraryMissing: llama.cpp is not installed, or is compiled for another CPU.
    """
    store = MeasuredStore.of(info.path)
    kind, reason = choose_kernels(settings, info, batch_invariant, store)
    slow = slow_weights(info, compact_gain(settings, info, store))
    return replace(settings, kernels=kind), KernelNotes(f"{kind}: {reason}", slow)


def choose_kernels(
    settings: Settings,
    info: ModelInfo,
    batch_invariant: bool,
    store: MeasuredStore | None,
    measure: Measure = kernel_times.measure,
) -> KernelChoice:
    """Decide what `kernels` leaves open.

    Args:
        settings: Of the runner; `kernels` as it is configured.
        info: The model.
        batch_invariant: Whether kinds that keep a row's bits are to be preferred.
        store: What earlier loads and `tune` have measured.
        measure: Measures kinds in turns.

    Raises:
        LoadError: This processor does not have the kind that is set.
    """
    kernels = Kernels()
    if settings.kernels != AUTO:
        kernels.check(settings.kernels)
        return KernelChoice(settings.kernels, AS_SET)
    if settings.gpu_layers:
        return KernelChoice(kernels.kinds[0], "the first there is; layers are on a GPU")
    weights = Weights.of(info)
    kinds = kernel_times.distinct_kinds(kernels, weights)
    if len(kinds) == 1:
        return KernelChoice(kinds[0], ONLY_KIND)
    key = given(settings, batch_invariant)
    remembered = store.recall(SUBJECT, key) if store else None
    if remembered and remembered.values.get(SUBJECT) in kinds:
        reason = f"{remembered.reason}; remembered from {remembered.date}"
        return KernelChoice(str(remembered.values[SUBJECT]), reason)
    try:
        times = measure(kernels, weights, kinds, settings.threads, rows_of(settings))
    except CannotMeasure as error:
        return KernelChoice(kinds[0], f"llama.cpp's own choice; {error}")
    measured = decide(times, key)
    if store:
        store.remember(measured)
    return KernelChoice(str(measured.values[SUBJECT]), measured.reason)


def rows_of(settings: Settings) -> int:
    """Rows of the decode steps that kinds are weighed by: half of the slots are busy."""
    return max(settings.sequences // 2, 1)


def given(settings: Settings, batch_invariant: bool) -> dict[str, Scalar]:
    """What a measurement of kernels depends on, beside model, build, and machine."""
    return {
        "threads": settings.threads,
        "rows": rows_of(settings),
        "batch_invariant": batch_invariant,
    }


def decide(times: Mapping[str, KernelTimes], key: Mapping[str, Scalar]) -> Measured:
    """From measurements to a choice.

    Args:
        times: By kind, at least two.
        key: Under which settings they were measured; see `given`.
    """
    rows = int(key["rows"])
    seconds = {kind: one.request_seconds(rows) for kind, one in times.items()}
    candidates = seconds
    if key["batch_invariant"]:
        candidates = {kind: seconds[kind] for kind in times if times[kind].keeps_bits} or seconds
    kind = fastest(candidates, MARGIN)
    ratios = (
        f"{took / seconds[kind]:.2f} x the speed of {other}"
        for other, took in seconds.items()
        if other != kind
    )
    figures = {
        f"{name}_{part}": value
        for name, one in times.items()
        for part, value in (
            ("decode_seconds", one.decode_seconds),
            ("prefill_seconds", one.prefill_seconds),
        )
    }
    reason = f"measured: {', '.join(ratios)}"
    return Measured(SUBJECT, key, {SUBJECT: kind}, figures, reason)


def compact_gain(
    settings: Settings,
    info: ModelInfo,
    store: MeasuredStore | None,
    measure: Measure = kernel_times.measure,
) -> float:
    """How many times as fast the matrices would be as Q8_0.

    Returns:
        1.0 where the weights are quantized already, or nothing can be measured.
    """
    weights = Weights.of(info)
    plain = {name: size for name, size in weights.bytes.items() if name in UNQUANTIZED}
    if (
        settings.gpu_layers
        or 2 * sum(plain.values()) < sum(weights.bytes.values())
        or not weights.measured_types
    ):
        return 1.0
    key = given(settings, batch_invariant=False)
    remembered = store.recall(_WEIGHTS_SUBJECT, key) if store else None
    if remembered and "gain" in remembered.figures:
        return remembered.figures["gain"]
    compact = replace(weights, bytes={COMPACT: _as_compact(plain)})
    try:
        seconds = [_fastest_seconds(one, settings, measure) for one in (weights, compact)]
    except CannotMeasure:
        return 1.0
    gain = seconds[0] / seconds[1]
    if store:
        store.remember(Measured(_WEIGHTS_SUBJECT, key, {}, {"gain": gain}))
    return gain


def slow_weights(info: ModelInfo, gain: float) -> str:
    """The sentence about weights that this processor has no fast kernels for; else empty."""
    if gain < GAIN_MIN:
        return ""
    return (
        f"the weights are {info.quantization}, which this processor has no fast kernels for; as "
        f"{COMPACT} they would be computed about {gain:.1f} times as fast: "
        f"llm-serving-engine models quantize {info.path} {COMPACT}"
    )


def _fastest_seconds(weights: Weights, settings: Settings, measure: Measure) -> float:
    kernels = Kernels()
    kinds = kernel_times.distinct_kinds(kernels, weights)
    rows = rows_of(settings)
    times = measure(kernels, weights, kinds, settings.threads, rows)
    return min(one.request_seconds(rows) for one in times.values())


def _as_compact(sizes: Mapping[str, int]) -> int:
    """Bytes of Q8_0 for as many elements."""
    elements = sum(size / (4 if name == "F32" else 2) for name, size in sizes.items())
    return round(elements * 34 / 32)
