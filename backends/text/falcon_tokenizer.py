"""The vocabulary of early Falcon files, by byte-level BPE in Python.

Files of 2023 hold Falcon's tokens as the bytes that they stand for; llama.cpp
has since come to want the characters that GPT-2 writes for bytes, and drops
the spaces of a text where it finds none. ctransformers wants the early files,
and dies of the later ones.
"""

from __future__ import annotations

import heapq
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from llm_serving_engine.backends.models.errors import ModelFileError
from llm_serving_engine.backends.models.gguf_file import GGUFFile, read_strings
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.text.control_tokens import ControlTokens, joined_tokens

_TOKENS = "tokenizer.ggml.tokens"
_MERGES = "tokenizer.ggml.merges"
_SCORES = "tokenizer.ggml.scores"
_END_OF_TEXT = "tokenizer.ggml.eos_token_id"
_END_OF_TEXT_DEFAULT = 11

_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
# GPT-2's words; the underscore is punctuation, and does not come here.
_WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d]+| ?\d+| ?[^\s\w]+|\s+(?!\S)|\s+")
_NUMBER = re.compile(r"[0-9]{3}|[0-9]+|[^0-9]+")


def is_early_falcon(file: GGUFFile) -> bool:
    """Whether a file's vocabulary is of this kind."""
    if file.metadata.get("general.architecture") != "falcon" or _SCORES not in file.array_lengths:
        return False
    (tokens,) = read_strings(file.path, _TOKENS)
    return b"\n" in tokens


class FalconTokenizer:
    """See `Tokenizer`. Immutable."""

    chat_template = None

    def __init__(self, path: Path) -> None:
        """Read the vocabulary of the file at `path`. Raises ModelError."""
        file = GGUFFile.read(path)
        self._names, merges = read_strings(path, _TOKENS, _MERGES)
        self._ids = {name: token for token, name in enumerate(self._names)}
        self._ranks = {_pair(merge): rank for rank, merge in enumerate(merges)}
        self._end: int = file.metadata.get(_END_OF_TEXT, _END_OF_TEXT_DEFAULT)
        if not (isinstance(self._end, int) and 0 <= self._end < len(self._names)):
            raise ModelFileError(
                f"{path} names token {self._end!r} as its last, which is not there"
            )
        self.info = ModelInfo.of(file)
        self.vocabulary_size = len(self._names)
        self.training_context = self.info.training_context
        self.stop_tokens = frozenset({self._end})
        self.longest_piece = max(map(len, self._names))
        self.bos_text = self.eos_text = self.name(self._end).decode("utf-8", "replace")
        self.control_tokens = ControlTokens({self.eos_text: self._end})

    def encode(self, text: str, *, special: bool) -> list[int]:
        """See `Tokenizer.encode`. No token is put in front."""
        return self.encode_pieces(self.control_tokens.split(text) if special else [text])

    def encode_pieces(self, pieces: Iterable[str | int]) -> list[int]:
        """See `Tokenizer.encode_pieces`."""
        return joined_tokens(pieces, self._tokens)

    def piece(self, token: int) -> bytes:
        """See `Tokenizer.piece`."""
        name = self.name(token)
        return b"" if token == self._end else name

    def name(self, token: int) -> bytes:
        """See `Tokenizer.name`."""
        if not 0 <= token < len(self._names):
            raise IndexError(f"token {token} is not within 0 to {len(self._names) - 1}")
        return self._names[token]

    def _tokens(self, text: str) -> list[int]:
        parts = (part for word in _words(text) for part in self._merge(word.encode("utf-8")))
        return [self._ids[part] for part in parts if part in self._ids]

    def _merge(self, word: bytes) -> list[bytes]:
        """Merge the pair of the lowest rank, the first of several, until there is none."""
        parts = [bytes((byte,)) for byte in word]
        before, after = list(range(-1, len(word) - 1)), list(range(1, len(word) + 1))
        waiting: list[tuple[int, int, bytes]] = []

        def offer(left: int) -> None:
            if left >= 0 and (right := after[left]) < len(word):
                rank = self._ranks.get((parts[left], parts[right]))
                if rank is not None:
                    heapq.heappush(waiting, (rank, left, parts[left] + parts[right]))

        for index in range(len(word)):
            offer(index)
        while waiting:
            _, left, merged = heapq.heappop(waiting)
            right = after[left]
            if not parts[left] or right >= len(word) or parts[left] + parts[right] != merged:
                continue  # one of them has been merged meanwhile
            parts[left], parts[right] = merged, b""
            after[left] = after[right]
            if after[left] < len(word):
                before[after[left]] = left
            offer(before[left])
            offer(left)
        return [part for part in parts if part]


def _words(text: str) -> Iterator[str]:
    """A text as Falcon splits it: runs of punctuation, words, numbers of up to three digits."""
    for punctuation, characters in itertools.groupby(text, _is_punctuation):
        run = "".join(characters)
        if punctuation:
            yield run
        else:
            for word in _WORD.findall(run):
                yield from _NUMBER.findall(word)


def _is_punctuation(character: str) -> bool:
    return character in _PUNCTUATION or unicodedata.category(character).startswith("P")


def _byte_of_characters() -> dict[str, int]:
    """The bytes that characters stand for in merges: GPT-2's way to make all bytes visible."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    bytes_by_character = {chr(byte): byte for byte in visible}
    return bytes_by_character | {chr(256 + n): byte for n, byte in enumerate(hidden)}


_BYTES = _byte_of_characters()


def _pair(merge: bytes) -> tuple[bytes, bytes]:
    left, _, right = merge.decode("utf-8", "replace").partition(" ")
    return _bytes(left), _bytes(right)


def _bytes(characters: str) -> bytes:
    return bytes(_BYTES[character] for character in characters if character in _BYTES)
