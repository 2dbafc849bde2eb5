"""Which matrix kernels a model is loaded for, by measurements that are handed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from buffer_types import (
    AMX_TYPE,
    REPACK_TYPE,
    offer_buffer_types,
)

from llm_serving_engine.backends.backend import BackendConfig, LoadError
from llm_serving_engine.backends.llama_cpp import kernel_choice
from llm_serving_engine.backends.llama_cpp.kernel_choice import (
    SUBJECT,
    KernelNotes,
    choose_kernels,
    compact_gain,
    decide,
    given,
    slow_weights,
)
from llm_serving_engine.backends.llama_cpp.kernel_times import (
    CannotMeasure,
    KernelTimes,
    Weights,
)
from llm_serving_engine.backends.llama_cpp.kernels import Kernels, fastest
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.measured import Circumstances, Measured, MeasuredStore
from llm_serving_engine.backends.models.info import ModelInfo

SLOW = KernelTimes(decode_seconds=0.04, prefill_seconds=0.4, keeps_bits=True)
FAST = KernelTimes(decode_seconds=0.02, prefill_seconds=0.2, keeps_bits=False)


@pytest.fixture
def extra_types(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return offer_buffer_types(monkeypatch)


@pytest.fixture
def info(tiny_model_path: Path) -> ModelInfo:
    info = ModelInfo.read(tiny_model_path)
    return replace(info, matrix_bytes={"Q4_0": 1000}, embedding_length=64, feed_forward_length=128)


@pytest.fixture
def settings(info: ModelInfo) -> Settings:
    return Settings.choose(BackendConfig(sequences=8, context_per_sequence=256, threads=2), info)


@pytest.fixture
def store(tmp_path: Path) -> MeasuredStore:
    return MeasuredStore(Circumstances("model", "build", "machine"), tmp_path)


class Measurements:
    """Measurements that are handed in, and what was asked for."""

    def __init__(self, times: Mapping[str, KernelTimes]) -> None:
        self.times = times
        self.asked: list[tuple[str, ...]] = []

    def __call__(
        self, kernels: Kernels, weights: Weights, kinds: tuple[str, ...], threads: int, rows: int
    ) -> Mapping[str, KernelTimes]:
        self.asked.append(kinds)
        assert (threads, rows) == (2, 4)
        return {kind: self.times[kind] for kind in kinds}


def test_a_kind_that_the_processor_does_not_have(
    extra_types: list[int], settings: Settings, info: ModelInfo
) -> None:
    extra_types[:] = [REPACK_TYPE]
    with pytest.raises(LoadError, match=r"kernels is 'amx', .* have: repack, plain, and auto"):
        choose_kernels(replace(settings, kernels="amx"), info, False, None)
    choice = choose_kernels(replace(settings, kernels="repack"), info, False, None)
    assert choice == ("repack", "as set")


@pytest.mark.parametrize(
    ("seconds", "kind"),
    [
        ({"amx": 1.0, "repack": 2.0, "plain": 3.0}, "amx"),
        ({"amx": 2.0, "repack": 1.0, "plain": 3.0}, "repack"),
        ({"repack": 2.0, "plain": 1.0}, "plain"),
        # As fast within the margin: what takes less memory.
        ({"repack": 1.0, "plain": 1.03}, "plain"),
        ({"repack": 1.0, "plain": 1.04}, "repack"),
    ],
)
def test_the_fastest(seconds: dict[str, float], kind: str) -> None:
    assert fastest(seconds, 0.03) == kind


def test_a_request_is_a_prompt_and_an_answer() -> None:
    times = KernelTimes(decode_seconds=0.1, prefill_seconds=0.32, keeps_bits=True)
    assert times.request_seconds(rows=1) == pytest.approx(400 / 64 * 0.32 + 150 * 0.1)
    assert times.request_seconds(rows=10) == pytest.approx(400 / 64 * 0.32 + 15 * 0.1)


def test_a_choice_says_why() -> None:
    key = {"threads": 2, "rows": 4, "batch_invariant": False}
    decided = decide({"repack": SLOW, "plain": FAST}, key)
    assert decided.values == {SUBJECT: "plain"}
    assert decided.reason == "measured: 2.00 x the speed of repack"
    assert decided.figures["repack_decode_seconds"] == 0.04
    assert decided.figures["plain_prefill_seconds"] == 0.2


def test_bits_are_kept_where_that_is_asked_for() -> None:
    key = {"threads": 2, "rows": 4, "batch_invariant": True}
    assert decide({"repack": SLOW, "plain": FAST}, key).values == {SUBJECT: "repack"}
    # Where no kind keeps them, the fastest.
    slow = SLOW._replace(keeps_bits=False)
    assert decide({"repack": slow, "plain": FAST}, key).values == {SUBJECT: "plain"}


def test_only_what_is_not_obvious_is_told() -> None:
    measured = "repack: measured: 2.00 x the speed of plain"
    assert KernelNotes(measured, "").sentences() == (f"kernels {measured}",)
    assert KernelNotes(measured, "slow").sentences() == (f"kernels {measured}", "slow")
    for obvious in (kernel_choice.AS_SET, kernel_choice.ONLY_KIND):
        assert KernelNotes(f"plain: {obvious}", "slow").sentences() == ("slow",)


def test_auto_measures_once(
    extra_types: list[int], settings: Settings, info: ModelInfo, store: MeasuredStore
) -> None:
    measurements = Measurements({"amx": FAST, "repack": SLOW, "plain": SLOW})
    kind, reason = choose_kernels(settings, info, False, store, measurements)
    assert kind == "amx"
    assert reason == "measured: 2.00 x the speed of repack, 2.00 x the speed of plain"
    measurements.times = {}
    kind, again = choose_kernels(settings, info, False, store, measurements)
    assert kind == "amx"
    assert again.startswith(f"{reason}; remembered from ")
    assert measurements.asked == [("amx", "repack", "plain")]


def test_what_tune_remembered_is_taken(
    extra_types: list[int], settings: Settings, info: ModelInfo, store: MeasuredStore
) -> None:
    key = given(settings, batch_invariant=False)
    store.remember(Measured(SUBJECT, key, {SUBJECT: "repack"}, reason="tuned"))
    measurements = Measurements({})
    assert choose_kernels(settings, info, False, store, measurements).kind == "repack"
    # A kind that there is no more is not taken.
    extra_types[:] = [AMX_TYPE]
    measurements.times = {"amx": FAST, "plain": SLOW}
    assert choose_kernels(settings, info, False, store, measurements).kind == "amx"


@pytest.mark.parametrize(
    ("types", "matrix_bytes", "kind"),
    [
        ([], {"Q4_0": 1000}, "plain"),
        ([AMX_TYPE, REPACK_TYPE], {"Q5_0": 1000}, "plain"),
        # A twentieth of the weights decides nothing.
        ([REPACK_TYPE], {"Q5_0": 1900, "Q4_0": 100}, "plain"),
        ([REPACK_TYPE], {}, "plain"),
    ],
)
def test_one_kind_is_not_measured(
    extra_types: list[int],
    settings: Settings,
    info: ModelInfo,
    types: list[int],
    matrix_bytes: dict[str, int],
    kind: str,
) -> None:
    extra_types[:] = types
    measurements = Measurements({})
    info = replace(info, matrix_bytes=matrix_bytes)
    assert choose_kernels(settings, info, False, None, measurements).kind == kind
    assert measurements.asked == []


def test_only_kinds_that_differ_are_measured(
    extra_types: list[int], settings: Settings, info: ModelInfo
) -> None:
    measurements = Measurements({"amx": SLOW, "repack": SLOW, "plain": FAST})
    for name, asked in (("Q8_0", ("amx", "plain")), ("IQ4_NL", ("repack", "plain"))):
        one = replace(info, matrix_bytes={name: 1000})
        choose_kernels(settings, one, False, None, measurements)
        assert measurements.asked.pop() == asked


def test_a_gpu_needs_no_measurement(
    extra_types: list[int], settings: Settings, info: ModelInfo
) -> None:
    measurements = Measurements({})
    choice = choose_kernels(replace(settings, gpu_layers=-1), info, False, None, measurements)
    assert choice.kind == "amx"
    assert measurements.asked == []


def test_what_would_mislead_is_not_remembered(
    extra_types: list[int], settings: Settings, info: ModelInfo, store: MeasuredStore
) -> None:
    def fail(*_arguments: object) -> Mapping[str, KernelTimes]:
        raise CannotMeasure("the machine was busy")

    choice = choose_kernels(settings, info, False, store, fail)
    assert choice == ("amx", "llama.cpp's own choice; the machine was busy")
    whole = replace(info, matrix_bytes={"F16": 1000})
    assert compact_gain(settings, whole, store, fail) == 1.0
    measurements = Measurements({"amx": SLOW, "repack": SLOW, "plain": FAST})
    assert choose_kernels(settings, info, False, store, measurements).kind == "plain"


# Weights without fast kernels


def test_unquantized_weights_are_weighed_against_compact_ones(
    settings: Settings, info: ModelInfo, store: MeasuredStore
) -> None:
    whole = replace(info, matrix_bytes={"F16": 64_000}, quantization="F16")
    asked: list[Mapping[str, int]] = []

    def measure_both(
        kernels: Kernels, weights: Weights, kinds: tuple[str, ...], threads: int, rows: int
    ) -> Mapping[str, KernelTimes]:
        asked.append(weights.bytes)
        return dict.fromkeys(kinds, SLOW if "F16" in weights.bytes else FAST)

    assert compact_gain(settings, whole, store, measure_both) == pytest.approx(2.0)
    assert asked == [{"F16": 64_000}, {"Q8_0": 34_000}]
    assert compact_gain(settings, whole, store, measure_both) == pytest.approx(2.0)
    assert len(asked) == 2
    sentence = slow_weights(whole, 2.0)
    assert "about 2.0 times as fast" in sentence
    assert sentence.endswith(f"models quantize {whole.path} Q8_0")
    assert slow_weights(whole, kernel_choice.GAIN_MIN - 0.01) == ""
    assert slow_weights(whole, kernel_choice.GAIN_MIN)


@pytest.mark.parametrize(
    "matrix_bytes", [{"Q4_0": 1000}, {"Q4_0": 1000, "F32": 900}, {"IQ2_XXS": 1000}, {}]
)
def test_quantized_weights_are_not(
    settings: Settings, info: ModelInfo, matrix_bytes: dict[str, int]
) -> None:
    quantized = replace(info, matrix_bytes=matrix_bytes)
    assert compact_gain(settings, quantized, None, Measurements({})) == 1.0
