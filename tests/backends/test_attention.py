"""The mix of calls that kinds of attention are compared by, and lengths of chunks."""

from __future__ import annotations

import pytest

from llm_serving_engine.backends.llama_cpp.attention import (
    Attention,
    fastest_attention,
    mix_seconds,
)
from llm_serving_engine.backends.llama_cpp.timed_calls import Call, CannotMeasure, Times
from llm_serving_engine.backends.llama_cpp.unit import fastest_length, length_seconds, unit_reason

ON, OFF = Attention(True, "f16"), Attention(False, "f16")


def times_of(rows: int, chunks: dict[tuple[int, int], float], decoded: dict[int, float]) -> Times:
    """Milliseconds of chunks by size and context, and of rows by context."""
    calls = {Call("chunk", *at): ms / 1000 for at, ms in chunks.items()}
    return calls | {Call("rows", rows, at): ms / 1000 for at, ms in decoded.items()}


# SmolLM2-135M Q4_0 on two cores with AVX-512: where the machine did nothing else.
AVX512 = {
    ON: times_of(
        8, {(64, 64): 35.4, (128, 192): 73.8}, {64: 12.1, 192: 14.3, 448: 18.6, 896: 26.4}
    ),
    OFF: times_of(
        8, {(64, 64): 37.8, (128, 192): 85.9}, {64: 16.4, 192: 16.5, 448: 20.5, 896: 29.1}
    ),
}
# The same model on two cores with AMX.
AMX = {
    ON: times_of(16, {(64, 100): 47, (64, 500): 108}, {100: 49, 500: 169, 1000: 248}),
    OFF: times_of(16, {(64, 100): 62, (64, 500): 96}, {100: 33, 500: 49, 1000: 90}),
}


def test_the_mix_finds_the_attention_of_two_machines() -> None:
    seconds = mix_seconds(AVX512, 8)
    assert seconds[OFF] > 1.1 * seconds[ON]
    assert fastest_attention(AVX512, 8) == ON
    assert fastest_attention({OFF: AVX512[OFF], ON: AVX512[ON]}, 8) == ON
    seconds = mix_seconds(AMX, 16)
    assert seconds[ON] > 1.5 * seconds[OFF]
    assert fastest_attention(AMX, 16) == OFF


def test_the_mix_is_a_chat_in_half_of_the_slots() -> None:
    (seconds,) = mix_seconds({ON: times_of(8, {(64, 0): 64}, {64: 8, 448: 16})}, 8).values()
    assert seconds == pytest.approx(400 * 0.001 + 150 * 0.0015)


def test_kinds_are_compared_by_the_calls_that_all_made() -> None:
    longer = times_of(8, {(64, 0): 10, (128, 64): 900}, {64: 10, 192: 900})
    shorter = times_of(8, {(64, 0): 20}, {64: 20})
    assert fastest_attention({OFF: shorter, ON: longer}, 8) == ON
    with pytest.raises(CannotMeasure, match="no time"):
        mix_seconds({ON: longer, OFF: times_of(8, {(64, 0): 20}, {})}, 8)


def test_lengths_are_compared_in_the_longest_context_at_the_middle_of_a_tile() -> None:
    # A call costs 0.064 s, a token 0.001 s, and 0.000001 s more for each before it.
    def chunk(size: int, context: int) -> tuple[Call, float]:
        after = context + (size - 64) / 2
        return Call("chunk", size, context), 0.064 + size * (0.001 + after / 1e6)

    calls = (chunk(*at) for at in [(64, 0), (384, 64), (64, 448), (256, 448), (512, 448)])
    # The line says what 128 tokens would take.
    seconds = {64: 0.002448, 128: 0.001948, 256: 0.001698, 512: 0.001573}
    assert length_seconds(dict(calls)) == pytest.approx(seconds)


def test_a_length_that_was_held_up_is_judged_by_the_others() -> None:
    quiet = {Call("chunk", size, 448): 0.01 + size / 1000 for size in (64, 128, 256, 512)}
    assert fastest_length(quiet) == 256
    for call, took in quiet.items():
        assert fastest_length(quiet | {call: 1.05 * took}) in (256, 512)


def test_where_a_call_costs_nothing_two_tiles_are_a_call() -> None:
    times = {Call("chunk", size, 448): size / speed for size, speed in ((64, 1000), (256, 980))}
    assert length_seconds(times)[64] == length_seconds(times)[256]
    assert fastest_length(times) == 128
    assert fastest_length(times, batch_invariant=True) == 64


def test_tiles_that_were_held_up_choose_something() -> None:
    slow, quick = {Call("chunk", 64, at): 1.41 for at in (0, 448)}, {Call("chunk", 128, 448): 0.128}
    times = slow | quick | {Call("chunk", 384, 64): 0.384}
    assert fastest_length(times) in {64, 128, 256}
    growing = {
        Call("chunk", 64, 0): 0.01,
        Call("chunk", 64, 448): 5.0,
        Call("chunk", 256, 448): 1.0,
    }
    assert all(seconds > 0 for seconds in length_seconds(growing).values())


def test_two_tiles_and_one_are_a_comparison() -> None:
    times = {Call("chunk", size, 448): size / 1000 for size in (64, 128)}
    assert "64: 1000, 128: 1000" in unit_reason(times, 64)
    short = {Call("chunk", size, 448): size / 1000 for size in (32, 64)}
    assert "no time to compare" in unit_reason(short, 64)


@pytest.mark.parametrize(
    "speeds",
    [
        pytest.param({0: (1907, 1963, 1876), 448: (950, 1066, 1107)}, id="Q4_0"),
        pytest.param({0: (975, 1045, 1053), 448: (657, 773, 815)}, id="Q8_0"),
        pytest.param({0: (916, 938, 955), 448: (659, 724, 762)}, id="Q4_K_M"),
        pytest.param({0: (477, 483, 484), 448: (397, 417, 430)}, id="Q4_1"),
    ],
)
def test_lengths_that_differ_in_deep_contexts_only_are_told_apart(
    speeds: dict[int, tuple[int, int, int]],
) -> None:
    # Tokens/s that were measured, of chunks of 64, 128, and 256.
    times = {
        Call("chunk", size, context): size / speed
        for context, of_context in speeds.items()
        for size, speed in zip((64, 128, 256), of_context, strict=True)
    }
    assert fastest_length(times, batch_invariant=False) == 256
