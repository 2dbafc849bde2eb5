"""The kinds of matrix kernels, and models that are loaded for one."""

from __future__ import annotations

from pathlib import Path

import pytest
from buffer_types import (
    AMX_TYPE,
    IQ4_NL,
    NAMES,
    Q4_0,
    Q5_0,
    Q8_0,
    REPACK_TYPE,
    offer_buffer_types,
)

from llm_serving_engine.backends.backend import BackendConfig, LoadError
from llm_serving_engine.backends.llama_cpp import ggml
from llm_serving_engine.backends.llama_cpp.kernel_times import (
    CannotMeasure,
    Weights,
    measure,
)
from llm_serving_engine.backends.llama_cpp.kernels import Kernels
from llm_serving_engine.backends.other_processes import OtherProcesses
from llm_serving_engine.backends.process.host import ProcessRunner
from llm_serving_engine.backends.quantize import quantize

SMALL = Weights({"Q4_0": 50_000}, 64, 64)


@pytest.fixture
def extra_types(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return offer_buffer_types(monkeypatch)


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


def test_a_kind_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="can be one of: auto, amx, repack, plain"):
        BackendConfig(kernels="fast")


# What the machine really has


def test_this_machine_is_measured() -> None:
    """Every kind, on a sample of two types; the numbers are the machine's."""
    kernels = Kernels()
    weights = Weights({"Q4_0": 500_000, "Q8_0": 500_000}, columns=256, rows=512)
    times = measure(
        kernels,
        weights,
        kernels.kinds,
        threads=1,
        rows=2,
        others=OtherProcesses(core_seconds=lambda: 0.0),
    )
    assert tuple(times) == kernels.kinds
    assert all(one.decode_seconds > 0 and one.prefill_seconds > 0 for one in times.values())


def test_a_measurement_ends_when_its_time_is_up() -> None:
    now = iter(range(1000))
    ticks: list[int] = []

    def clock() -> float:
        ticks.append(next(now))
        return float(ticks[-1])

    kernels = Kernels()
    measure(kernels, SMALL, ("plain",), 1, 2, OtherProcesses(clock, lambda: 0.0))
    # The beginning, that of the rounds, one of them with three numbers of rows, before and
    # after each, its end, and the end.
    assert len(ticks) == 10


def test_times_are_not_taken_while_others_compute() -> None:
    had = iter((100.0, 200.0))
    others = OtherProcesses(core_seconds=lambda: next(had))
    with pytest.raises(CannotMeasure, match="other processes"):
        measure(Kernels(), SMALL, ("plain",), 1, 2, others)


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
    # What is set needs no note of why it was chosen.
    config = BackendConfig(
        sequences=2,
        context_per_sequence=256,
        threads=1,
        kernels=kind,
        flash_attention=True,
        prefill_chunk=64,
    )
    runner = ProcessRunner("llama.cpp", str(path), config)
    try:
        report = await runner.start()
        assert report.settings["kernels"] == kind
        assert not any(kind in note for note in report.notes)
        assert report.estimated_bytes == pytest.approx(runner.memory_bytes, rel=0.15)
    finally:
        await runner.close()


async def test_a_replacement_has_the_same_kernels(tiny_model_path: Path) -> None:
    config = BackendConfig(sequences=2, context_per_sequence=256, threads=1)
    runner = ProcessRunner("llama.cpp", str(tiny_model_path), config)
    try:
        first = await runner.start()
        assert config.kernels == "auto"
        assert first.settings["kernels"] == "plain"
        await runner.close()
        second = await runner.start()
        assert second.settings == first.settings
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
