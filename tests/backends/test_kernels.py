"""Which matrix kernels a model is loaded for."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from llm_serving_engine.backends.backend import BackendConfig, LoadError
from llm_serving_engine.backends.llama_cpp import ggml, kernel_choice
from llm_serving_engine.backends.llama_cpp.kernel_choice import (
    SUBJECT,
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
    measure,
)
from llm_serving_engine.backends.llama_cpp.kernels import Kernels, fastest
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.measured import Circumstances, Measured, MeasuredStore
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.models.quantize import quantize
from llm_serving_engine.backends.process.host import ProcessRunner

# Buffer types of a processor that has everything, and what each takes.
CPU, AMX_TYPE, REPACK_TYPE = 11, 12, 13
NAMES = {CPU: "CPU", AMX_TYPE: "AMX", REPACK_TYPE: "CPU_REPACK"}
Q4_0, Q8_0, IQ4_NL, Q5_0 = 2, 8, 20, 6
TAKEN = {CPU: {Q4_0, Q8_0, IQ4_NL, Q5_0}, AMX_TYPE: {Q4_0, Q8_0}, REPACK_TYPE: {Q4_0, IQ4_NL}}
SMALL = Weights({"Q4_0": 50_000}, 64, 64)
SLOW = KernelTimes(decode_seconds=0.04, prefill_seconds=0.4, keeps_bits=True)
FAST = KernelTimes(decode_seconds=0.02, prefill_seconds=0.2, keeps_bits=False)


@pytest.fixture
def extra_types(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The buffer types of ggml's list, which a test may change before it makes `Kernels`."""
    types = [AMX_TYPE, REPACK_TYPE]

    def array(device: int) -> ctypes.Array[ctypes.c_void_p]:
        return (ctypes.c_void_p * (len(types) + 1))(*types)

    monkeypatch.setattr(ggml, "cpu_device", lambda: 1)
    monkeypatch.setattr(ggml, "extra_buffer_types", array)
    monkeypatch.setattr(ggml, "plain_buffer_type", lambda device: CPU)
    monkeypatch.setattr(ggml, "buffer_type_name", NAMES.__getitem__)
    monkeypatch.setattr(
        ggml, "supports", lambda device, place, code, columns, rows: code in TAKEN[place]
    )
    return types


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


def listed(kernels: Kernels) -> list[int]:
    return list(ggml.listed(kernels._list))


@pytest.mark.parametrize(
    ("types", "kinds"),
    [
        ([AMX_TYPE, REPACK_TYPE], ("amx", "repack", "plain")),
        ([REPACK_TYPE], ("repack", "plain")),
        ([AMX_TYPE], ("amx", "plain")),
        ([], ("plain",)),
    ],
)
def test_the_kinds_there_are(
    extra_types: list[int], types: list[int], kinds: tuple[str, ...]
) -> None:
    extra_types[:] = types
    assert Kernels().kinds == kinds


def test_where_a_kind_puts_weights(extra_types: list[int]) -> None:
    kernels = Kernels()

    def places(code: int) -> list[str]:
        used = (kernels.used(kind, code, 64, 64) for kind in kernels.kinds)
        return [NAMES[place] for place in used if place is not None]

    assert places(Q4_0) == ["AMX", "CPU_REPACK", "CPU"]
    assert places(Q8_0) == ["AMX", "CPU", "CPU"]
    # What AMX has no kernels for is repacked.
    assert places(IQ4_NL) == ["CPU_REPACK", "CPU_REPACK", "CPU"]
    assert places(Q5_0) == ["CPU", "CPU", "CPU"]


def test_the_list_is_cut_while_a_model_is_loaded(extra_types: list[int]) -> None:
    kernels = Kernels()
    for kind, used, during in (
        ("amx", True, [AMX_TYPE, REPACK_TYPE]),
        ("repack", True, [REPACK_TYPE]),
        # llama.cpp is told not to look at it.
        ("plain", False, [AMX_TYPE, REPACK_TYPE]),
    ):
        with kernels.loading(kind) as use_extra:
            assert (use_extra, listed(kernels)) == (used, during)
        assert listed(kernels) == [AMX_TYPE, REPACK_TYPE]


def test_the_list_is_whole_again_after_a_load_that_failed(extra_types: list[int]) -> None:
    kernels = Kernels()
    with pytest.raises(LoadError), kernels.loading("repack"):
        raise LoadError
    assert listed(kernels) == [AMX_TYPE, REPACK_TYPE]


def test_a_library_without_kernels_for_a_processor(
    extra_types: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ggml, "cpu_device", lambda: None)
    kernels = Kernels()
    assert kernels.kinds == ("plain",)
    assert kernels.used("plain", Q4_0, 64, 64) is None
    with kernels.loading("plain") as use_extra:
        assert not use_extra


def test_a_kind_that_the_processor_does_not_have(
    extra_types: list[int], settings: Settings, info: ModelInfo
) -> None:
    extra_types[:] = [REPACK_TYPE]
    with pytest.raises(LoadError, match=r"kernels is 'amx', .* have: repack, plain, and auto"):
        choose_kernels(replace(settings, kernels="amx"), info, False, None)
    choice = choose_kernels(replace(settings, kernels="repack"), info, False, None)
    assert choice == ("repack", "as set")


def test_a_kind_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="can be one of: auto, amx, repack, plain"):
        BackendConfig(kernels="fast")


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


# What the machine really has


def test_this_machine_is_measured() -> None:
    """Every kind, on a sample of two types; the numbers are the machine's."""
    kernels = Kernels()
    weights = Weights({"Q4_0": 500_000, "Q8_0": 500_000}, columns=256, rows=512)
    times = measure(kernels, weights, kernels.kinds, threads=1, rows=2, others=lambda: 0.0)
    assert tuple(times) == kernels.kinds
    assert all(one.decode_seconds > 0 and one.prefill_seconds > 0 for one in times.values())


def test_a_measurement_ends_when_its_time_is_up() -> None:
    now = iter(range(1000))
    ticks: list[int] = []

    def clock() -> float:
        ticks.append(next(now))
        return float(ticks[-1])

    kernels = Kernels()
    measure(kernels, SMALL, ("plain",), 1, 2, clock, lambda: 0.0)
    # The beginning, one round with three numbers of rows, before and after each, its end,
    # and the end.
    assert len(ticks) == 10


def test_times_are_not_taken_while_others_compute() -> None:
    had = iter((100.0, 200.0))
    with pytest.raises(CannotMeasure, match="other processes"):
        measure(Kernels(), SMALL, ("plain",), 1, 2, others=lambda: next(had))


def test_without_memory_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ggml, "allocated", fail)
    with pytest.raises(CannotMeasure, match="no memory"):
        measure(Kernels(), SMALL, ("plain",), 1, 2)


@pytest.mark.parametrize("kind", ["repack", "plain"])
async def test_a_model_is_loaded_for_a_kind(
    kind: str, builtin_model_path: Path, tmp_path: Path
) -> None:
    """Repacked weights are copies, which the runner's memory shows."""
    if kind not in Kernels().kinds:
        pytest.skip(f"this machine has no kernels of the kind {kind!r}")
    path = tmp_path / "q4_0.gguf"
    quantize(builtin_model_path, path, "Q4_0")
    config = BackendConfig(sequences=2, context_per_sequence=256, threads=1, kernels=kind)
    runner = ProcessRunner("llama.cpp", str(path), config)
    try:
        report = await runner.start()
        assert report.settings["kernels"] == kind
        assert report.notes == (f"kernels {kind}: as set",)
        assert report.estimated_bytes == pytest.approx(runner.memory_bytes, rel=0.15)
    finally:
        await runner.close()


async def test_a_kind_that_is_missing_is_an_error_of_the_load(tiny_model_path: Path) -> None:
    missing = {"amx", "repack"} - set(Kernels().kinds)
    if not missing:
        pytest.skip("this machine has every kind")
    config = BackendConfig(sequences=2, context_per_sequence=256, kernels=missing.pop())
    runner = ProcessRunner("llama.cpp", str(tiny_model_path), config)
    with pytest.raises(LoadError, match="do not have"):
        await runner.start()


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
