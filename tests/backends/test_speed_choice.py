"""Attention and unit, chosen by the times of a model that is made up."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from llama_settings import SETTINGS
from timed_model import Model, by_kernels, choose, in_memory

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.llama_cpp import speed_choice
from llm_serving_engine.backends.llama_cpp.attention import DEPTH, START
from llm_serving_engine.backends.llama_cpp.part import FILLER, Part
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.llama_cpp.speed_choice import (
    LATER,
    NOT_MEASURED,
    SpeedChoice,
    remembered_speed,
)
from llm_serving_engine.backends.llama_cpp.timed_calls import Call
from llm_serving_engine.backends.llama_cpp.unit import fastest_length

pytestmark = pytest.mark.usefixtures("model_clock")


def test_slow_flash_attention_is_left(path: Path) -> None:
    model = Model(by_kernels)
    choice = choose(model, BackendConfig(), path)
    assert not choice.settings.flash_attention
    assert model.settings == choice.settings
    assert choice.reasons[0].startswith("flash attention off with f16: measured 1.")


def test_fast_flash_attention_is_kept(path: Path) -> None:
    choice = choose(Model(in_memory), BackendConfig(), path)
    assert choice.settings.flash_attention
    assert choice.reasons[0].startswith("flash attention on with f16: measured 1.")


@pytest.mark.parametrize("slowness", [0.2, 1, 3, 10, 100])
def test_measuring_ends_in_time(path: Path, slowness: float) -> None:
    def slow(settings: Settings, parts: Sequence[Part]) -> float:
        return slowness * by_kernels(settings, parts)

    model = Model(slow)
    choose(model, BackendConfig(), path)
    # The first call is made however long it takes: 16 tokens.
    first_call = slow(SETTINGS, [Part(0, 0, FILLER * 16)])
    assert model.now < max(3.0, 1.01 * first_call)


def test_a_machine_that_becomes_slow_is_measured_no_longer(path: Path) -> None:
    model = Model(by_kernels)

    def stopped(settings: Settings, parts: Sequence[Part]) -> float:
        return 60.0 if model.calls == 3 else by_kernels(settings, parts)

    model._seconds = stopped
    choose(model, BackendConfig(), path)
    assert model.calls < 10
    assert model.now < 62
    assert choose(Model(by_kernels), BackendConfig(), path).times


def test_the_context_that_attention_has_filled_is_used_for_the_unit(path: Path) -> None:
    model = Model(in_memory)
    choice = choose(model, BackendConfig(), path)
    # The start of a context for each kind of attention, the rest for the one that may win.
    assert model.filled == START + DEPTH
    assert Call("chunk", 128, DEPTH) in choice.times
    unsaved = Model(in_memory)
    unsaved.saved = None
    path.write_bytes(b"another model")
    assert choose(unsaved, BackendConfig(), path).settings == choice.settings
    assert unsaved.filled == START + DEPTH + DEPTH


def test_equally_fast_attention_is_the_default(path: Path) -> None:
    model = Model(lambda _, parts: sum(part.length for part in parts) / 1000)
    choice = choose(model, BackendConfig(), path)
    assert choice.settings.flash_attention
    # A prompt of two tiles is not cut.
    assert choice.settings.prefill_chunk == 128


def test_the_unit_is_the_shortest_that_is_nearly_the_fastest(path: Path) -> None:
    model = Model(lambda _, parts: 0.008 + sum(part.length for part in parts) / 5000)
    choice = choose(model, BackendConfig(flash_attention=True), path)
    # 0.008 s for a call: 31 % of the time of 128 tokens, 16 % of that of 256, the longest length
    # that is no longer than the chunk that filled the context.
    assert choice.settings.prefill_chunk == 256
    assert choose(model, BackendConfig(), path, memory=128).settings.prefill_chunk == 128


def test_what_was_measured_is_remembered(path: Path) -> None:
    first = choose(Model(by_kernels), BackendConfig(), path)
    model = Model(by_kernels)
    again = choose(model, BackendConfig(), path)
    assert model.calls == 0
    assert (again.settings, dict(again.times)) == (first.settings, dict(first.times))
    assert "remembered from" in again.reasons[0]
    assert remembered_speed(path, BackendConfig(), SETTINGS) == again
    other = replace(SETTINGS, threads=1)
    unmeasured = SpeedChoice(other, {}, (NOT_MEASURED.format("attention and prefill_chunk"),))
    assert remembered_speed(path, BackendConfig(), other) == unmeasured
    only_unit = unmeasured._replace(reasons=(NOT_MEASURED.format("prefill_chunk"),))
    assert remembered_speed(path, BackendConfig(flash_attention=True), other) == only_unit
    set_by_hand = BackendConfig(flash_attention=True, prefill_chunk=64)
    assert remembered_speed(path, set_by_hand, other) is None
    model.settings = other
    choose(model, BackendConfig(), path)
    assert model.calls > 0


@pytest.mark.parametrize(
    "other", [{"sequences": 4}, {"context_per_sequence": 4096}, {"gpu_layers": 0}]
)
def test_the_unit_stays_when_slots_change(path: Path, other: dict[str, int]) -> None:
    def seconds(settings: Settings, parts: Sequence[Part]) -> float:
        return 0.008 + sum(part.length for part in parts) / 2000

    first = choose(Model(seconds), BackendConfig(flash_attention=True), path)
    model = Model(lambda _, parts: sum(part.length for part in parts) / 2000)
    model.settings = replace(SETTINGS, **other)  # type: ignore[arg-type]
    again = choose(model, BackendConfig(flash_attention=True), path)
    assert again.settings.prefill_chunk == first.settings.prefill_chunk > 32
    assert again.reasons == (f"{first.reasons[0]} (remembered from {datetime.date.today()})",)
    assert model.calls == 0


def test_attention_is_remembered_without_the_unit(path: Path) -> None:
    choose(Model(by_kernels), BackendConfig(), path)
    set_by_hand = BackendConfig(prefill_chunk=64)
    model = Model(by_kernels)
    choice = choose(model, set_by_hand, path)
    assert not choice.settings.flash_attention
    assert choice == remembered_speed(path, set_by_hand, SETTINGS)
    assert model.calls == 0
    model.settings = replace(SETTINGS, sequences=4)
    assert not choose(model, set_by_hand, path).settings.flash_attention
    assert model.calls > 0


def test_the_default_needs_no_second_turn_where_it_is_the_fastest(path: Path) -> None:
    settings = BackendConfig(prefill_chunk=64)
    kept, left = Model(in_memory), Model(by_kernels)
    choose(kept, settings, path)
    path.write_bytes(b"another model")
    choose(left, settings, path)
    assert kept.calls < left.calls


def test_no_single_slow_call_decides_the_unit(path: Path) -> None:
    def unit(slow_call: int) -> tuple[int, int]:
        def seconds(settings: Settings, parts: Sequence[Part]) -> float:
            # With a step for each, chunks of 64 are 6.9 % slower than those of 256, those of
            # 128 are 2.3 %.
            quiet = 0.001 + sum(part.length for part in parts) / 2000
            return quiet * (1.5 if model.calls == slow_call else 1)

        model = Model(seconds)
        path.write_bytes(bytes([slow_call]))
        choice = choose(model, BackendConfig(flash_attention=True), path, memory=256)
        return choice.settings.prefill_chunk, model.calls

    chosen, calls = unit(0)
    assert chosen == 128
    assert calls >= 10
    assert {unit(number)[0] for number in range(1, calls + 1)} == {128}


def test_bits_that_must_hold_need_flash_attention(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed_choice, "keeps_bits", lambda model, unit: unit < 256)
    model = Model(lambda _, parts: 0.002 + sum(part.length for part in parts) / 5000)
    choice = choose(model, BackendConfig(batch_invariant=True), path)
    assert choice.settings.flash_attention
    assert choice.settings.prefill_chunk == 128


def test_a_refused_type_of_cache_is_left_out(path: Path) -> None:
    model = Model(by_kernels, refuses="q8_0")
    choice = choose(model, BackendConfig(cache_type="auto"), path)
    assert choice.settings.cache_type == "f16"
    faster = Model(lambda settings, _: 0.01 if settings.cache_type == "q8_0" else 0.02)
    path.write_bytes(b"another model")
    choice = choose(faster, BackendConfig(cache_type="auto"), path)
    assert (choice.settings.cache_type, choice.settings.flash_attention) == ("q8_0", True)


def test_what_is_set_is_not_measured(path: Path) -> None:
    model = Model(by_kernels)
    choice = choose(model, BackendConfig(flash_attention=False, prefill_chunk=64), path)
    assert (choice.times, choice.reasons, model.calls) == ({}, (), 0)


def test_a_tiny_model_is_not_compared(path: Path) -> None:
    model = Model(lambda _, parts: sum(part.length for part in parts) / 1e6)
    choice = choose(model, BackendConfig(), path)
    assert (choice.settings, choice.times) == (SETTINGS, {})
    assert "too short to compare" in choice.reasons[0]


def test_a_large_model_is_timed_at_less_context(path: Path) -> None:
    model = Model(lambda _, parts: sum(part.length for part in parts) / 100)
    choice = choose(model, BackendConfig(), path)
    contexts = {call.context for call in choice.times}
    assert 0 < max(contexts) < DEPTH
    assert choice.settings.flash_attention


def test_lengths_for_which_attention_left_no_time_are_compared_by_the_next_load(
    path: Path,
) -> None:
    def large(settings: Settings, parts: Sequence[Part]) -> float:
        return 0.06 + sum(part.length for part in parts) / 120

    first = Model(large)
    early = choose(first, BackendConfig(), path)
    assert early.settings.prefill_chunk == 64
    assert early.reasons[1].endswith(f"there was no time to compare lengths{LATER}")
    known = remembered_speed(path, BackendConfig(), SETTINGS)
    assert known is not None
    assert "remembered" in known.reasons[0]
    assert known.reasons[1] == NOT_MEASURED.format("prefill_chunk")
    second = Model(large)
    choice = choose(second, BackendConfig(), path)
    assert choice.settings.prefill_chunk == 128
    assert max(first.now, second.now) < 3
    third = Model(large)
    assert choose(third, BackendConfig(), path).settings == choice.settings
    assert third.calls == 0


def test_lengths_of_a_model_that_is_too_slow_are_tried_once_more(path: Path) -> None:
    def large(settings: Settings, parts: Sequence[Part]) -> float:
        return sum(part.length for part in parts) / 40

    for _ in range(2):
        choice = choose(Model(large), BackendConfig(), path)
    assert "there was no time to compare lengths" in choice.reasons[1]
    assert LATER not in choice.reasons[1]
    model = Model(large)
    assert choose(model, BackendConfig(), path).settings == choice.settings
    assert model.calls == 0


def test_chunks_that_streams_cannot_wait_for_are_no_units_under_batch_invariant() -> None:
    times = {Call("chunk", 64, 0): 0.09, Call("chunk", 128, 0): 0.12, Call("chunk", 32, 0): 0.04}
    assert fastest_length(times, batch_invariant=True) == 64
    assert fastest_length(times, batch_invariant=False) == 128


def test_a_value_of_another_type_is_the_candidate(path: Path) -> None:
    set_by_hand = BackendConfig(flash_attention=True)
    first = choose(Model(by_kernels), set_by_hand, path)
    [file] = path.parent.rglob("unit-*.json")
    unit = first.settings.prefill_chunk
    text = file.read_text()
    assert f'"prefill_chunk": {unit}' in text
    file.write_text(text.replace(f'"prefill_chunk": {unit}', f'"prefill_chunk": {unit}.0'))
    model = Model(by_kernels)
    again = choose(model, set_by_hand, path)
    assert model.calls == 0
    assert type(again.settings.prefill_chunk) is int


def test_names_of_calls() -> None:
    call = Call("rows", 16, 448)
    assert Call.named(call.name) == call
    assert Call.named("gain") is None
    assert Call.named("rows_300000000_at_0_seconds") is None
    assert Call.named("chunk_0_at_0_seconds") is None
    assert call.shape.rows
    assert not Call("chunk", 64, 0).shape.rows


def test_what_only_the_first_calls_pay_decides_nothing(path: Path) -> None:
    model = Model(in_memory)

    def cold(settings: Settings, parts: Sequence[Part]) -> float:
        return in_memory(settings, parts) * (3 if model.calls < 8 else 1)

    model._seconds = cold
    choice = choose(model, BackendConfig(), path)
    assert choice.settings.flash_attention
    assert "measured 1." in choice.reasons[0]


def test_settings_differ_in_what_was_chosen_only(path: Path) -> None:
    choice = choose(Model(by_kernels), BackendConfig(), path)
    chosen = choice.settings
    assert replace(chosen, flash_attention=True, prefill_chunk=64) == SETTINGS
