from __future__ import annotations

import gc
import weakref
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_serving_engine.backends.text.stop import StopMatcher

# Few letters, so that stop sequences do occur, overlap, and nearly occur.
texts = st.text("abc", max_size=40)
stop_lists = st.lists(st.text("abc", min_size=1, max_size=5), max_size=4)


def naive(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The output, and what ended it: the first to be complete, then the longest."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


def may_become_a_stop(text: str, stops: list[str]) -> int:
    """The length of the longest suffix that begins a stop sequence."""
    return max(
        (
            length
            for stop in stops
            for length in range(1, len(stop))
            if text.endswith(stop[:length])
        ),
        default=0,
    )


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    return [text[start:end] for start, end in pairwise(edges)]


@given(texts, stop_lists, st.lists(st.integers(0, 40)))
def test_agrees_with_the_naive_search_however_the_text_is_cut(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    matcher = StopMatcher(stops)
    output = "".join(matcher.feed(piece) for piece in pieces_of(text, cuts)) + matcher.flush()
    assert (output, matcher.matched) == naive(text, stops)


@given(texts, stop_lists)
def test_releases_all_that_cannot_be_a_part_of_a_stop_sequence_and_no_more(
    text: str, stops: list[str]
) -> None:
    matcher = StopMatcher(stops)
    released, seen = "", ""
    for character in text:
        released += matcher.feed(character)
        seen += character
        if matcher.matched is not None:
            break
        assert released == seen[: len(seen) - may_become_a_stop(seen, stops)]


def test_a_stop_sequence_across_pieces_leaves_no_part_of_itself() -> None:
    matcher = StopMatcher(["\n\nUser:"])
    assert [matcher.feed(piece) for piece in ("Yes.", "\n", "\nUs", "er", ": and")] == [
        "Yes.", "", "", "", "",
    ]  # fmt: skip
    assert (matcher.matched, matcher.flush()) == ("\n\nUser:", "")


def test_of_two_that_end_together_the_longest_wins() -> None:
    matcher = StopMatcher(["c", "abc"])
    assert (matcher.feed("xabcx"), matcher.matched) == ("x", "abc")


def test_the_one_that_is_complete_first_wins() -> None:
    matcher = StopMatcher(["abcd", "bc"])
    assert (matcher.feed("xabcd"), matcher.matched) == ("xa", "bc")


def test_nothing_comes_after_a_match() -> None:
    matcher = StopMatcher(["b"])
    assert (matcher.feed("ab"), matcher.feed("more"), matcher.flush()) == ("a", "", "")


def test_what_was_held_back_comes_at_the_end() -> None:
    matcher = StopMatcher(["abc"])
    assert (matcher.feed("xab"), matcher.flush(), matcher.flush()) == ("x", "ab", "")


def test_an_empty_stop_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopMatcher(["a", ""])


def test_it_leaves_nothing_to_the_garbage_collector() -> None:
    matcher = StopMatcher(["abcab", "cab", "b"])
    assert matcher.feed("xabc") == "xa"
    automaton = weakref.ref(matcher._automaton)
    gc.disable()
    try:
        del matcher
        assert automaton() is None
    finally:
        gc.enable()
