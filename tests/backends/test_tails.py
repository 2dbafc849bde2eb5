"""Ends of prompts that are filled up to whole tiles."""

from __future__ import annotations

from typing import Any

from llm_serving_engine.backends.llama_cpp.tails import SHORT, TILE, Tails
from llm_serving_engine.backends.llama_cpp.timed_calls import Call


def speeds(short_deep: float) -> Any:
    context = 448
    return [
        (Call("chunk", SHORT, 0).shape, 0.024),
        (Call("chunk", TILE, 0).shape, 0.033),
        (Call("chunk", SHORT, context).shape, short_deep),
        (Call("chunk", TILE, context).shape, 0.065),
    ]


def test_tails_are_filled_up_where_a_tile_is_faster() -> None:
    tails = Tails.of(speeds(short_deep=0.075))
    assert tails is not None
    assert tails.padded_length(63, 64) == TILE
    assert tails.padded_length(48, 448) == TILE
    assert tails.padded_length(40, 448) == 40
    assert tails.padded_length(16, 0) == 16
    assert tails.padded_length(1, 2000) == 1
    assert tails.padded_length(TILE, 0) == TILE
    assert tails.padded_length(70, 448) == 70


def test_tails_stay_where_nothing_is_gained_or_known() -> None:
    tails = Tails.of(speeds(short_deep=0.040))
    assert tails is not None
    assert tails.padded_length(60, 448) == 60
    assert Tails.of(speeds(0.075)[1:2]) is None
    assert Tails.of([]) is None


def test_tails_that_were_timed_at_one_context_are_filled_up_at_all() -> None:
    tails = Tails.of(speeds(short_deep=0.040)[:2])
    assert tails is not None
    assert tails.padded_length(63, 1000) == 63
    slow = [(Call("chunk", SHORT, 64).shape, 0.030), (Call("chunk", TILE, 64).shape, 0.033)]
    tails = Tails.of(slow)
    assert tails is not None
    assert tails.padded_length(63, 0) == tails.padded_length(63, 1000) == TILE
