"""Token ids to text, as they come."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from llm_serving_engine.backends.text.tokenizer import Tokenizer

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """Decodes the tokens of one output; a character comes when all of its bytes are there.

    All texts joined are the joined bytes of all tokens, decoded as UTF-8, with
    U+FFFD for what is not valid.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._piece = tokenizer.piece
        self._decoder = _new_decoder("replace")

    def feed(self, tokens: Iterable[int]) -> str:
        """The text that is complete after `tokens`. Raises IndexError for an unknown token."""
        return self._decoder.decode(b"".join(map(self._piece, tokens)))

    def flush(self) -> str:
        """The end of the output: U+FFFD where it ends within a character."""
        return self._decoder.decode(b"", True)
