"""What first loads choose on machines that are made up from measured speeds, and how long it takes.

A call's time is that of its kernels, and a context takes time to be made, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from timed_model import Model, Seconds, choose

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.llama_cpp.attention import DEPTH
from llm_serving_engine.backends.llama_cpp.part import Part
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.llama_cpp.speed_choice import SECONDS_MAX
from llm_serving_engine.backends.llama_cpp.timed_calls import WARM_UP_TOKENS

pytestmark = pytest.mark.usefixtures("model_clock")

# What a load may measure for, whatever the machine; the limit within it has room for a call.
LOAD_SECONDS_MAX = 3.0


def amx(speeds: Mapping[int, int], slowness: float = 1.0) -> Seconds:
    """SmolLM2-135M with AMX kernels: flash attention is slow below 64 tokens, and deep.

    Args:
        speeds: Tokens/s of a prompt, by length of chunks.
        slowness: Of a larger model.
    """

    def seconds(settings: Settings, parts: Sequence[Part]) -> float:
        size, context, flash = parts[0].length, parts[0].start, settings.flash_attention
        if size == 1:
            sixteen = 0.019 + 0.0003 * context if flash else 0.029 + 0.00004 * context
            return slowness * sixteen * (0.2 + 0.8 * len(parts) / 16)
        if flash and size < 64:
            return slowness * (0.041 + 0.00107 * context) * size / 63
        middle = context + max(size - 64, 0) / 2
        tile = 0.032 + 0.00015 * middle if flash else 0.053 + 0.000085 * middle
        speed = speeds[min(speeds, key=lambda length: abs(length - size))]
        return slowness * tile * size / 64 * speeds[64] / speed

    return seconds


def plain(speed: float, rows_seconds: float, gains: Mapping[int, float]) -> Seconds:
    """A CPU on which flash attention is faster, by 1.1 in chunks and by 1.16 in rows.

    Args:
        speed: Tokens/s of chunks of 64 at the start of a context.
        rows_seconds: Of eight rows there.
        gains: Speeds of chunks by length, compared to chunks of 64.
    """

    def seconds(settings: Settings, parts: Sequence[Part]) -> float:
        size, context, flash = parts[0].length, parts[0].start, settings.flash_attention
        if size == 1:
            eight = rows_seconds * (1 + context / 1500) * (1.0 if flash else 1.16)
            return eight * (0.3 + 0.7 * len(parts) / 8)
        gain = 0.8 if size < 64 else gains[min(gains, key=lambda length: abs(length - size))]
        middle = context + max(size - 64, 0) / 2
        return size / (speed * gain) * (1 + middle / 2500) * (1.0 if flash else 1.1)

    return seconds


Q4_1 = {64: 1.0, 128: 1.05, 256: 1.07, 512: 1.08}
Q4_0 = {64: 1.0, 128: 1.12, 256: 1.22, 512: 1.23}
Q8_0 = {64: 1.0, 128: 1.15, 256: 1.25, 512: 1.26}
EQUAL = {64: 1.0, 128: 1.0, 256: 1.0, 512: 1.0}
AMX_Q4_0 = {64: 663, 128: 809, 256: 808, 512: 989}
AMX_Q8_0 = {64: 720, 128: 879, 256: 972, 512: 1004}


def first_load(seconds: Seconds, path: Path, context_seconds: float) -> tuple[Settings, Model, int]:
    """The choice of a first load, the model, and the longest context with rows."""
    deepest = 0

    def watched(settings: Settings, parts: Sequence[Part]) -> float:
        nonlocal deepest
        deepest = max(deepest, parts[0].start * (parts[0].length == 1))
        return seconds(settings, parts)

    model = Model(watched, context_seconds=context_seconds)
    settings = choose(model, BackendConfig(), path).settings
    # The last context is the server's own, which is made for what was chosen.
    model.now -= model.context_seconds_of(settings)
    return settings, model, deepest


@pytest.mark.parametrize("context_seconds", [0.0, 0.12])
@pytest.mark.parametrize(
    ("seconds", "flash", "units", "rows_at"),
    [
        pytest.param(amx(AMX_Q4_0), False, {256}, DEPTH, id="AMX Q4_0"),
        pytest.param(amx(AMX_Q8_0), False, {256}, DEPTH, id="AMX Q8_0"),
        pytest.param(plain(520, 0.024, Q4_1), True, {128}, DEPTH, id="AVX-512 Q4_1"),
        pytest.param(plain(2060, 0.011, Q4_0), True, {256}, DEPTH, id="AVX-512 Q4_0"),
        pytest.param(plain(1050, 0.022, Q8_0), True, {256}, DEPTH, id="AVX-512 Q8_0"),
        pytest.param(plain(430, 0.037, EQUAL), True, {128}, DEPTH, id="AVX2"),
        pytest.param(plain(220, 0.09, Q4_1), True, {64, 128}, 64, id="1B"),
        pytest.param(amx(AMX_Q4_0, 4), False, {64, 128}, 192, id="1B with AMX"),
        pytest.param(plain(110, 0.15, Q4_1), True, {64}, 48, id="3B"),
        pytest.param(plain(56, 0.25, Q4_1), True, {64}, 16, id="7B"),
    ],
)
def test_the_fastest_is_found_in_time(
    path: Path,
    seconds: Seconds,
    flash: bool,
    units: set[int],
    rows_at: int,
    context_seconds: float,
) -> None:
    settings, model, deepest = first_load(seconds, path, context_seconds)
    assert settings.flash_attention == flash
    assert settings.prefill_chunk in units
    assert deepest >= rows_at
    assert model.now < LOAD_SECONDS_MAX


@pytest.mark.parametrize("slowness", [0.8, 1.0, 1.15])
def test_the_unit_of_the_built_in_model_takes_less_than_a_second(
    path: Path, slowness: float
) -> None:
    calls: list[tuple[int, int, float]] = []
    seconds = plain(520 / slowness, 0.024, Q4_1)

    def watched(settings: Settings, parts: Sequence[Part]) -> float:
        took = seconds(settings, parts)
        calls.append((parts[0].length, parts[0].start, took))
        return took

    choose(Model(watched), BackendConfig(), path)
    # Its first call warms up the context that attention has left.
    begins = max(
        n for n, (size, start, _) in enumerate(calls) if (size, start) == (WARM_UP_TOKENS, 0)
    )
    assert sum(took for _, _, took in calls[begins:]) < 1.0
    assert {size for size, *_ in calls[begins:]} == {WARM_UP_TOKENS, 32, 64, 128}


def test_a_model_that_is_too_slow_is_not_measured_again(path: Path) -> None:
    seconds = plain(30, 0.5, Q4_1)
    first = Model(seconds)
    choice = choose(first, BackendConfig(), path)
    told = "attention and prefill_chunk by default: the model is too slow to measure"
    assert choice.reasons == (told,)
    assert first.now < SECONDS_MAX
    again = Model(seconds)
    assert "remembered from" in choose(again, BackendConfig(), path).reasons[0]
    assert (first.calls, again.calls) == (2, 0)


def stopped_once(seconds: Seconds) -> Seconds:
    """The first call takes a second more: the process was stopped."""
    first = [1.0]
    return lambda settings, parts: seconds(settings, parts) + (first.pop() if first else 0.0)


def test_a_model_that_is_stopped_in_its_first_call_is_measured(path: Path) -> None:
    model = Model(stopped_once(plain(2060, 0.011, Q4_0)))
    settings = choose(model, BackendConfig(), path).settings
    assert settings.prefill_chunk == 256
    assert model.now < LOAD_SECONDS_MAX + 1


def test_a_first_call_that_takes_all_of_the_time_is_told(path: Path) -> None:
    choice = choose(Model(lambda settings, parts: 10.0), BackendConfig(), path)
    told = "there was no time to measure; the next load measures again"
    assert choice.reasons == (f"attention and prefill_chunk by default: {told}",)
    model = Model(plain(2060, 0.011, Q4_0))
    assert choose(model, BackendConfig(), path).settings.prefill_chunk == 256
