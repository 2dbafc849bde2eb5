"""Decodes token ids to text incrementally."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from llm_serving_engine.backends.text.tokenizer import Tokenizer

# The first byte of an encoded surrogate, and the least that the second can be.
_SURROGATE_LEAD, _SURROGATE_SECOND = b"\xed", b"\xa0"

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """Decodes the tokens of one output; yields a character when all of its bytes have arrived.

    The texts joined are the tokens' bytes decoded as UTF-8. Bytes that can never
    become a character become U+FFFD as soon as that is known. A character that
    the output's end cuts is left out.
    """

    def __init__(self, tokenizer: Tokenizer, *, show_special: bool = False) -> None:
        """Begin an output; `show_special` tells whether control tokens show their names."""
        self._piece = tokenizer.name if show_special else tokenizer.piece
        self._decoder = _new_decoder("replace")

    def feed(self, tokens: Iterable[int]) -> str:
        """The text that is complete after `tokens`. Raises IndexError for an unknown token."""
        data = b"".join(map(self._piece, tokens))
        text = self._decoder.decode(data)
        # Python's decoder waits for the last byte of an encoded surrogate, which is invalid.
        if data[-1:] >= _SURROGATE_SECOND:
            pending = self._decoder.getstate()[0]
            if pending[:1] == _SURROGATE_LEAD and pending[1:] >= _SURROGATE_SECOND:
                text += self._decoder.decode(b"", True)
        return text
