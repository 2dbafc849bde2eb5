"""What a load chooses and remembers beside other processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_settings import SETTINGS
from timed_model import Model, by_kernels, choose, others_of

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.llama_cpp import speed_choice
from llm_serving_engine.backends.llama_cpp.part import Part
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.llama_cpp.speed_choice import SpeedChoice
from llm_serving_engine.backends.llama_cpp.tails import SHORT
from llm_serving_engine.backends.llama_cpp.timed_calls import (
    OTHERS_COMPUTE,
    CallTimer,
    CannotMeasure,
    TimeLimit,
)
from llm_serving_engine.backends.other_processes import CROWDED_SECONDS, DISTURBED_CORES

pytestmark = pytest.mark.usefixtures("model_clock")


def test_the_attention_stays_where_there_is_no_time_for_the_unit(path: Path) -> None:
    model = Model(by_kernels)

    def busy_later(settings: Settings, parts: Sequence[Part]) -> float:
        model.others += parts[0].length == SHORT
        return by_kernels(settings, parts)

    model._seconds = busy_later
    choice = choose(model, BackendConfig(), path)
    assert not choice.settings.flash_attention
    assert choice.reasons[1:] == (f"prefill_chunk by default: {OTHERS_COMPUTE}",)
    assert choice.settings.prefill_chunk == SETTINGS.prefill_chunk
    assert choose(Model(by_kernels), BackendConfig(), path).settings.prefill_chunk > 64


def test_nothing_is_chosen_while_others_compute(path: Path) -> None:
    model = Model(by_kernels)

    def busy(settings: Settings, parts: Sequence[Part]) -> float:
        model.others += 1
        return by_kernels(settings, parts)

    model._seconds = busy
    choice = choose(model, BackendConfig(), path)
    assert choice.settings == model.settings == SETTINGS
    assert choice.times == {}
    assert "other processes were computing" in choice.reasons[0]
    assert model.calls < 5
    assert choose(Model(by_kernels), BackendConfig(), path).times


@pytest.mark.parametrize(("taken", "lasting"), [(0.8, True), (2.5, False)])
def test_what_was_measured_beside_others_is_not_remembered(
    path: Path, taken: float, lasting: bool
) -> None:
    def seconds(settings: Settings, parts: Sequence[Part]) -> float:
        # Twice as fast without flash attention; 1.2 times as fast by 128 tokens as by 64.
        return (1 + settings.flash_attention) * (0.02 + sum(part.length for part in parts) / 2000)

    def choose_beside(cores: float) -> tuple[SpeedChoice, int]:
        model = Model(seconds, cores=cores)
        return choose(model, BackendConfig(), path), model.calls

    first, _ = choose_beside(taken * DISTURBED_CORES)
    assert not first.settings.flash_attention
    assert first.settings.prefill_chunk > 64
    assert [reason.endswith(speed_choice.AGAIN) for reason in first.reasons] == 2 * [not lasting]
    again, calls = choose_beside(0.0)
    assert (calls == 0) == lasting
    assert again.settings == first.settings
    assert "remembered from" in choose_beside(0.0)[0].reasons[1]


def test_what_others_disturbed_for_a_moment_is_measured_again(path: Path) -> None:
    model = Model(by_kernels)

    def seconds(settings: Settings, parts: Sequence[Part]) -> float:
        took = by_kernels(settings, parts)
        model.others += 0.3 * took if model.now < 0.5 else 0
        return took

    model._seconds = seconds
    first = choose(model, BackendConfig(), path)
    assert not any(speed_choice.AGAIN in reason for reason in first.reasons)
    again = Model(by_kernels)
    assert choose(again, BackendConfig(), path).settings == first.settings
    assert again.calls == 0


def test_beside_others_what_gains_little_is_not_chosen(path: Path) -> None:
    def seconds(settings: Settings, parts: Sequence[Part]) -> float:
        # 1.1 times as fast without flash attention; 1.04 times by 128 tokens as by 64.
        slowness = 1.1 if settings.flash_attention else 1.0
        return slowness * (0.005 + sum(part.length for part in parts) / 1000)

    def choose_beside(cores: float) -> Settings:
        return choose(Model(seconds, cores=cores), BackendConfig(), path, memory=256).settings

    assert choose_beside(2 * DISTURBED_CORES) == SETTINGS
    alone = choose_beside(0.0)
    assert (alone.flash_attention, alone.prefill_chunk) == (False, 128)


def test_nothing_is_measured_with_fewer_threads(path: Path) -> None:
    model = Model(by_kernels)
    model.threads = SETTINGS.threads - 1
    assert "other processes" in choose(model, BackendConfig(), path).reasons[0]
    assert model.calls == 0


def test_a_timer_says_that_others_compute() -> None:
    model: Any = Model(by_kernels)
    timer = CallTimer(model, TimeLimit(1.0, others_of(model)))
    model.others = CROWDED_SECONDS + 1
    with pytest.raises(CannotMeasure, match="other processes"):
        timer.chunk(64)
