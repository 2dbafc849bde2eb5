"""The special tokens of a vocabulary, without llama.cpp's defaults.

Where a file has no key for a special token, llama.cpp assumes the id that is usual
for the kind of vocabulary: 1 and 2 for SentencePiece, 11 for byte-level BPE, which
is "," in GPT-2's vocabulary and ends the output at the first comma.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NO_TOKEN = -1
_CONTROL_ATTRIBUTE = 1 << 3
_BYTE_LEVEL_BPE = 2


class SpecialTokens:
    """Reads the special tokens of one vocabulary."""

    def __init__(self, library: Any, vocabulary: Any, keys: Mapping[str, int]) -> None:
        """Prepare to read.

        Args:
            library: llama.cpp.
            vocabulary: Its vocabulary.
            keys: The ids that the file gives, by name: "bos", "eos", and so on.
        """
        self._library = library
        self._vocabulary = vocabulary
        self._keys = keys
        self._size: int = library.llama_vocab_n_tokens(vocabulary)

    @property
    def bos(self) -> int | None:
        """The beginning-of-sequence token, or None."""
        return self._trusted("bos", self._library.llama_vocab_bos(self._vocabulary))

    @property
    def eos(self) -> int | None:
        """The end-of-sequence token, or None."""
        return self._trusted("eos", self._library.llama_vocab_eos(self._vocabulary))

    def ends(self) -> frozenset[int]:
        """The tokens that end the output: those of the file's keys, and those known by name."""
        ends_output = self._library.llama_vocab_is_eog
        found = {token for token in range(self._size) if ends_output(self._vocabulary, token)}
        default = self._library.llama_vocab_eos(self._vocabulary)
        # An end-of-turn token is one by its name or its key, whatever its id.
        if self.eos is None and default != self._library.llama_vocab_eot(self._vocabulary):
            found.discard(default)
        return frozenset(found)

    def _trusted(self, name: str, token: int) -> int | None:
        """The id that llama.cpp has for a special token, or None where it is a wrong default.

        A default is right where the vocabulary says that the token is a control token. A
        byte-level vocabulary's default has no such meaning in any of them.
        """
        if token == _NO_TOKEN:
            return None
        if self._keys.get(name, self._size) < self._size:
            return token
        kind = self._library.llama_vocab_type(self._vocabulary)
        attributes = self._library.llama_vocab_get_attr(self._vocabulary, token)
        control = bool(attributes & _CONTROL_ATTRIBUTE)
        return token if control and kind != _BYTE_LEVEL_BPE else None
