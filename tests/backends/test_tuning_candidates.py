"""Which values are looked at, for a machine and a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.backend import LoadError
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.tuning import candidates
from llm_serving_engine.backends.tuning.candidates import (
    axis,
    cache_bytes,
    plan,
    room_for_another,
    with_value,
)
from llm_serving_engine.backends.tuning.reading import Reading

MEGABYTE = 10**6
SETTINGS = Settings(16, 2048, 8, 64, "f16", True, 0)


@pytest.fixture
def info(tiny_model_path: Path) -> ModelInfo:
    """A model whose cache takes 512 bytes a token as f16, and 272 as q8_0."""
    info = ModelInfo.read(tiny_model_path)
    return replace(info, training_context=100_000, key_length=32, value_length=32)


def set_machine(
    monkeypatch: pytest.MonkeyPatch, *, logical: int = 16, free: int = 10**11, physical: int = 8
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: free)
    monkeypatch.setattr(machine, "logical_cores", lambda: logical)
    monkeypatch.setattr(machine, "compute_threads", lambda: physical)
    monkeypatch.setattr(machine, "apple_silicon", lambda: False)


@pytest.mark.parametrize(
    ("threads", "logical", "others"),
    [(1, 1, ()), (1, 2, (2,)), (2, 2, (1,)), (2, 4, (1, 4)), (8, 16, (4, 6, 7, 16))],
)
def test_threads(
    info: ModelInfo,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    logical: int,
    others: tuple[int, ...],
) -> None:
    set_machine(monkeypatch, logical=logical)
    found = axis("threads", replace(SETTINGS, threads=threads), info, 16)
    assert (found.default, found.others) == (threads, others)


@pytest.mark.parametrize(
    ("kinds", "chosen", "others"),
    [
        (("plain",), "plain", ()),
        (("plain",), "auto", ()),
        (("repack", "plain"), "repack", ("plain",)),
        (("amx", "repack", "plain"), "amx", ("repack", "plain")),
    ],
)
def test_kinds_of_kernels(
    info: ModelInfo,
    monkeypatch: pytest.MonkeyPatch,
    kinds: tuple[str, ...],
    chosen: str,
    others: tuple[str, ...],
) -> None:
    set_machine(monkeypatch)
    monkeypatch.setattr(candidates, "distinct_kinds", lambda kernels, weights: kinds)
    found = axis("kernels", replace(SETTINGS, kernels=chosen), info, 16)
    assert (found.default, found.others) == (chosen, others)
    assert plan(info, 16, None).kernels == kinds[0]


@pytest.mark.parametrize(
    ("clients", "others"),
    [(1, ()), (2, (1,)), (4, (2,)), (16, (8,)), (24, (12, 24)), (64, (32, 64)), (999, (128, 256))],
)
def test_sequences_are_those_that_change_the_rows(
    info: ModelInfo, monkeypatch: pytest.MonkeyPatch, clients: int, others: tuple[int, ...]
) -> None:
    set_machine(monkeypatch)
    assert axis("sequences", SETTINGS, info, clients).others == others


def test_sequences_that_do_not_fit_are_left_out(
    info: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 64 sequences take 67 MB; a cache may take a quarter of 200 MB.
    set_machine(monkeypatch, free=200 * MEGABYTE)
    found = axis("sequences", SETTINGS, info, 64)
    assert found.others == (32,)
    ((value, reason),) = found.left_out
    assert value == 64
    assert "0.1 GB" in reason


def test_cache_types(info: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    set_machine(monkeypatch)
    assert axis("cache_type", SETTINGS, info, 16).others == ("q8_0",)
    compact = with_value(SETTINGS, "cache_type", "q8_0")
    assert axis("cache_type", compact, info, 16).others == ("f16",)
    assert cache_bytes(SETTINGS, info) == 16 * 2048 * 512
    assert cache_bytes(compact, info) == 16 * 2048 * 272


def test_narrow_heads_have_no_q8_0(info: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    set_machine(monkeypatch)
    found = axis("cache_type", SETTINGS, replace(info, key_length=80), 16)
    assert found.others == ()
    assert [value for value, _ in found.left_out] == ["q8_0"]


@pytest.mark.parametrize(
    ("token_seconds", "context", "others", "left_out"),
    [
        (0.0005, 2048, (128, 256, 512), ()),
        (0.002, 2048, (128,), (256, 512)),  # more than half a second
        (0.0005, 600, (128, 256), (512,)),  # more than half of the context
    ],
)
def test_chunks(
    info: ModelInfo,
    token_seconds: float,
    context: int,
    others: tuple[int, ...],
    left_out: tuple[int, ...],
) -> None:
    settings = replace(SETTINGS, context_per_sequence=context)
    found = axis("prefill_chunk", settings, info, 16, Reading(token_seconds, 0.1, 16))
    assert found.others == others
    assert tuple(value for value, _ in found.left_out) == left_out


def test_the_plan_is_the_default(info: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    set_machine(monkeypatch)
    planned = replace(SETTINGS, kernels="plain")
    assert plan(info, 16, None) == planned
    assert plan(info, 16, 4096) == replace(planned, context_per_sequence=4096)
    with pytest.raises(LoadError, match="trained for"):
        plan(info, 16, 1_000_000)


def test_the_plan_is_compact_where_memory_demands_it(
    info: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As f16, 16 sequences take 16.8 MB, as q8_0 8.9 MB, of a quarter of 40 MB.
    set_machine(monkeypatch, free=40 * MEGABYTE)
    compact = plan(info, 16, 2048)
    assert (compact.cache_type, compact.sequences) == ("q8_0", 16)
    found = axis("cache_type", compact, info, 16)
    assert found.others == ()
    assert [value for value, _ in found.left_out] == ["f16"]
    # Eight clients have enough slots as it is, and narrow heads have no choice.
    assert plan(info, 8, 2048).cache_type == "f16"
    assert plan(replace(info, key_length=80, value_length=48), 16, 2048).cache_type == "f16"


def test_room_for_another(info: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    set_machine(monkeypatch, free=100 * MEGABYTE)
    assert not room_for_another(SETTINGS, info)
    set_machine(monkeypatch, free=1000 * MEGABYTE)
    assert room_for_another(SETTINGS, info)
