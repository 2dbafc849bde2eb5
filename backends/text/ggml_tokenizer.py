"""The vocabularies of legacy GGML files, as ctransformers tokenizes by them.

Those files hold the tokens and not the rules that they were learned by. Their
loaders split a text into words and take the longest token again and again; for
replit's, whose tokens have scores, the text is cut so that they sum up best.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from llm_serving_engine.backends.models.ggml_file import GGMLFile
from llm_serving_engine.backends.text.control_tokens import ControlTokens, joined_tokens

_END_OF_TEXT = b"<|endoftext|>"
# Tokens by which models that were tuned for conversations end their turns.
_ENDS_OF_TURNS = (b"<|end|>", b"### End")
_SPECIAL = {
    "dolly-v2": (b"### End", b"### Instruction:", b"### Response:"),
    "starcoder": (
        b"<|system|>", b"<|user|>", b"<|assistant|>", b"<|end|>", b"<fim-prefix>",
        b"<fim-middle>", b"<fim-suffix>", b"<fim-pad>", b"<|end_of_turn|>",
    ),
}  # fmt: skip
_WORD = re.compile(rb"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")
_SPACE = "▁".encode()


class GGMLTokenizer:
    """A legacy file's vocabulary, in Python.

    As with ctransformers, text that no token can spell is left out; the
    vocabularies of real models spell every byte. Immutable.
    """

    chat_template = None

    def __init__(self, file: GGMLFile) -> None:
        architecture = file.info.architecture
        self.info = file.info
        self._names = tuple(_bytes_of(token, architecture) for token in file.tokens)
        self._ids = {token: index for index, token in enumerate(self._names)}
        self._scores = file.scores
        self.longest_piece = max(map(len, self._names), default=1) or 1
        self.vocabulary_size = len(self._names)
        self.training_context = file.info.training_context
        special = [name for name in _SPECIAL.get(architecture, ()) if name in self._ids]
        end = self._ids.get(_END_OF_TEXT, 0)
        ends = {self._ids[name] for name in _ENDS_OF_TURNS if name in special}
        self.stop_tokens = frozenset({end, *ends})
        self._control = self.stop_tokens | {self._ids[name] for name in special}
        named = [name for name in (_END_OF_TEXT, *special) if name in self._ids]
        self.control_tokens = ControlTokens({name.decode(): self._ids[name] for name in named})
        self.bos_text = self.eos_text = self.name(end).decode("utf-8", "replace")

    def encode(self, text: str, *, special: bool) -> list[int]:
        """See `Tokenizer.encode`. No token is put in front."""
        # The best cut of a text with scores is one for all of it, control tokens included.
        return self.encode_pieces(
            self.control_tokens.split(text) if special and not self._scores else [text]
        )

    def encode_pieces(self, pieces: Iterable[str | int]) -> list[int]:
        """See `Tokenizer.encode_pieces`."""
        return joined_tokens(pieces, self._tokens)

    def piece(self, token: int) -> bytes:
        """See `Tokenizer.piece`."""
        name = self.name(token)
        return b"" if token in self._control else name

    def name(self, token: int) -> bytes:
        """See `Tokenizer.name`."""
        if not 0 <= token < self.vocabulary_size:
            raise IndexError(f"token {token} is not within 0 to {self.vocabulary_size - 1}")
        name = self._names[token]
        return name.replace(_SPACE, b" ") if self._scores else name

    def _tokens(self, text: str) -> list[int]:
        data = text.encode("utf-8")
        if self._scores:
            return self._best(data.replace(b" ", _SPACE))
        return [token for word in _WORD.findall(data) for token in self._longest(word)]

    def _longest(self, word: bytes) -> Iterator[int]:
        """The longest token that the rest of a word begins with, again and again."""
        start = 0
        while start < len(word):
            for end in range(min(len(word), start + self.longest_piece), start, -1):
                token = self._ids.get(word[start:end])
                if token is not None:
                    yield token
                    break
            start = end

    def _best(self, data: bytes) -> list[int]:
        """The tokens that spell a text with the highest sum of scores."""
        if not data:
            return []
        # By position: the lowest cost to come here, and where the last token began.
        costs = [0.0] + [float("inf")] * len(data)
        begins = [0] * (len(data) + 1)
        for start in range(len(data)):
            if costs[start] == float("inf"):
                continue
            for end in range(start + 1, min(len(data), start + self.longest_piece) + 1):
                token = self._ids.get(data[start:end])
                if token is not None and costs[start] - self._scores[token] < costs[end]:
                    costs[end] = costs[start] - self._scores[token]
                    begins[end] = start
        if costs[-1] == float("inf"):
            return [0]  # as ctransformers does: the unknown token
        tokens = []
        end = len(data)
        while end:
            tokens.append(self._ids[data[begins[end] : end]])
            end = begins[end]
        return tokens[::-1]


def _bytes_of(token: bytes, architecture: str) -> bytes:
    """A token's text: mpt's files write each byte as the character of that number."""
    if architecture != "mpt":
        return token
    return bytes(ord(character) & 0xFF for character in token.decode("utf-8", "replace"))
