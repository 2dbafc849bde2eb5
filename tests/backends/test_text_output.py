from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_serving_engine.backends.text.control_tokens import ControlTokens
from llm_serving_engine.backends.text.detokenizer import Detokenizer
from llm_serving_engine.backends.text.output import TextOutput


class Pieces:
    """A vocabulary that is a list of pieces: token n is the nth."""

    bos_text = eos_text = ""
    chat_template = None
    info = None
    training_context = 0
    stop_tokens: frozenset[int] = frozenset()

    def __init__(self, *pieces: bytes, control: dict[str, int] | None = None) -> None:
        self._pieces = pieces
        self.control_tokens = ControlTokens(control or {})
        self.vocabulary_size = len(pieces)
        self.longest_piece = max(map(len, pieces), default=0)

    def encode(self, text: str, *, special: bool) -> list[int]:
        raise NotImplementedError

    def encode_pieces(self, pieces: Iterable[str | int]) -> list[int]:
        raise NotImplementedError

    def piece(self, token: int) -> bytes:
        return self._pieces[token]

    name = piece


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(position % (len(data) + 1) for position in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


def decoded(detokenizer: Detokenizer, tokens: Iterable[int]) -> str:
    return "".join(detokenizer.feed([token]) for token in tokens)


cut_positions = st.lists(st.integers(0, 1000), max_size=20)
# Sound UTF-8, and what is nearly so: ends of characters, overlong forms, surrogates.
nearly_utf8 = st.lists(
    st.one_of(
        st.text(max_size=5).map(str.encode),
        st.binary(max_size=3),
        st.sampled_from([b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc0\x80", b"\xed\xa0\x80"]),
    ),
    max_size=8,
).map(b"".join)


@given(nearly_utf8, cut_positions)
def test_the_texts_joined_are_all_bytes_decoded(data: bytes, cuts: list[int]) -> None:
    pieces = cut(data, cuts)
    detokenizer = Detokenizer(Pieces(*pieces))
    texts = [detokenizer.feed([token]) for token in range(len(pieces))]
    whole = data.decode("utf-8", errors="replace")
    text = "".join(texts)
    assert text == whole[: len(text)]
    # Nothing is missing but the beginning of a character.
    assert whole[len(text) :] in ("", "\ufffd")


@given(st.text(), cut_positions)
def test_never_sends_half_a_character(text: str, cuts: list[int]) -> None:
    pieces = cut(text.encode(), cuts)
    detokenizer = Detokenizer(Pieces(*pieces))
    seen = ""
    for token in range(len(pieces)):
        seen += detokenizer.feed([token])
        assert text.startswith(seen)
    assert seen == text


def test_a_character_that_the_end_cuts_is_left_out() -> None:
    assert Detokenizer(Pieces(b"ok \xf0\x9f\x98")).feed([0]) == "ok "


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xff", "\ufffd"),
        (b"\xc0", "\ufffd"),
        (b"\x80", "\ufffd"),
        (b"\xe2\x82\xe2", "\ufffd"),
        (b"\xed\xa0", "\ufffd\ufffd"),
        (b"\xf4\x90", "\ufffd\ufffd"),
    ],
)
def test_bytes_that_never_become_a_character_are_replaced_at_once(data: bytes, text: str) -> None:
    pieces = [bytes((byte,)) for byte in data]
    assert decoded(Detokenizer(Pieces(*pieces)), range(len(pieces))).startswith(text)


def test_an_unknown_token_is_refused() -> None:
    with pytest.raises(IndexError):
        Detokenizer(Pieces(b"a")).feed([1])


def test_counts_the_tokens_up_to_the_stop_sequence() -> None:
    output = TextOutput(Pieces(b"a", b"EN", b"D!", b"b"), stops=["END"])
    assert output.feed([0, 0, 1]) == "aa"
    assert (output.stopped, output.consumed) == (False, 3)
    assert output.feed([2, 3, 3]) == ""
    assert (output.stopped, output.consumed) == (True, 4)
    assert (output.feed([0]), output.finish(), output.consumed) == ("", "", 4)


def test_finish_gives_what_was_held_back() -> None:
    output = TextOutput(Pieces(b"one E", b"N", b"\xe2\x82"), stops=["END"])
    assert output.feed([0, 1, 2]) == "one "
    assert output.finish() == "EN"


def test_a_stop_sequence_of_characters_that_are_cut_in_bytes() -> None:
    euro = "€".encode()
    output = TextOutput(Pieces(b"5 ", euro[:1], euro[1:]), stops=["€"])
    assert output.feed([0, 1, 2]) == "5 "
    assert (output.stopped, output.consumed) == (True, 3)


CONTROL = {"<|end|>": 1, "<|x|>": 2}


def test_a_stop_sequence_that_names_a_control_token_matches_it() -> None:
    output = TextOutput(Pieces(b"a", b"", b"", control=CONTROL), stops=["<|end|>"])
    assert output.feed([0, 2, 0, 1, 0]) == "aa"
    assert (output.stopped, output.consumed) == (True, 4)


def test_it_matches_the_name_spelled_as_text_too() -> None:
    pieces = Pieces(b"a<|", b"end|", b">b", b"", control={"<|end|>": 3})
    output = TextOutput(pieces, stops=["<|end|>"])
    assert output.feed([0]) == "a"
    assert output.feed([1, 2]) == ""
    assert output.stopped


def test_a_stop_sequence_of_text_and_control_tokens() -> None:
    output = TextOutput(Pieces(b"a\n", b"", b"", control=CONTROL), stops=["\n<|end|><|x|>"])
    assert output.feed([0, 1]) == "a"
    # It did not come to it: what was held back comes, and no sign of the token.
    assert output.feed([0, 1]) == "\na"
    assert output.finish() == "\n"
    output = TextOutput(Pieces(b"a\n", b"", b"", control=CONTROL), stops=["\n<|end|><|x|>"])
    assert output.feed([0, 1, 2]) == "a"
    assert (output.stopped, output.finish()) == (True, "")


def test_stop_sequences_are_looked_for_after_the_least_number_of_tokens() -> None:
    output = TextOutput(Pieces(b"END", b"a"), stops=["END"], min_tokens=2)
    assert output.feed([0, 1]) == "ENDa"
    assert output.feed([0, 1]) == ""
    assert (output.stopped, output.consumed) == (True, 3)
