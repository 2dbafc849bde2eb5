"""Ends of prompts that are filled up to whole tiles."""

from __future__ import annotations

from typing import Any

from llm_serving_engine.backends.llama_cpp.tails import SHORT, TILE, Tails
from llm_serving_engine.backends.llama_cpp.timed_calls import Call


def speeds(short_deep: float) -> Any:
    context = 448
    return [
        (Call("chunk", TILE, 0).shape, 0.033),
        (Call("chunk", SHORT, context).shape, short_deep),
        (Call("chunk", TILE, context).shape, 0.065),
    ]


def test_tails_are_filled_up_where_a_tile_is_faster() -> None:
    tails = Tails.of(speeds(short_deep=0.050))
    assert tails is not None
    assert tails.padded_length(63, 64) == TILE
    assert tails.padded_length(48, 448) == TILE
    assert tails.padded_length(40, 448) == 40
    assert tails.padded_length(63, 0) == TILE
    assert tails.padded_length(48, 0) == 48
    assert tails.padded_length(16, 0) == 16
    assert tails.padded_length(1, 2000) == 1
    assert tails.padded_length(TILE, 0) == TILE
    assert tails.padded_length(70, 448) == 70


def test_tails_stay_where_nothing_is_gained_or_known() -> None:
    tails = Tails.of(speeds(short_deep=0.027))
    assert tails is not None
    assert tails.padded_length(60, 448) == 60
    for missing in range(3):
        known = speeds(0.050)
        del known[missing]
        assert Tails.of(known) is None
    assert Tails.of([]) is None


def test_chunks_are_cut_down_to_what_is_not_filled_up() -> None:
    for short_deep, length in ((0.027, SHORT), (0.050, SHORT), (0.060, TILE)):
        tails = Tails.of(speeds(short_deep))
        assert tails is not None
        assert tails.shortest(2048) == length


def test_tails_at_the_start_of_a_context_say_nothing() -> None:
    short, tile = Call("chunk", SHORT, 0).shape, Call("chunk", TILE, 0).shape
    assert Tails.of([(short, 0.030), (tile, 0.033)]) is None
