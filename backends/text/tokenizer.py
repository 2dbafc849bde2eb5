"""Converts text to token ids and back, with a model's vocabulary."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from llm_serving_engine.backends.llama_library import captured_errors, library
from llm_serving_engine.backends.models.errors import ModelFileError
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.text.control_tokens import ControlTokens, joined_tokens
from llm_serving_engine.backends.text.special_tokens import SpecialTokens
from llm_serving_engine.backends.text.stack import call_with_stack

# The values of `tokenizer.ggml.model` in files without a vocabulary.
_NO_VOCABULARY = frozenset({"", "none", "no_vocab"})
_SENTENCEPIECE = 1
_BYTE_ATTRIBUTE = 1 << 5
_STRIPS_LEFT = 1 << 7
_STRIPS_RIGHT = 1 << 8
_BYTES = 256
# A token of an unknown character stands for up to this many bytes of UTF-8.
_CHARACTER_BYTES_MAX = 4

# llama.cpp splits text for some vocabularies (tekken, gpt-4o, deepseek) by
# std::regex, which in libstdc++ calls itself for each character of a run: 322
# bytes of stack a character, measured. A run of 32,000 letters would end the process.
_STACK_BYTES_PER_TEXT_BYTE = 1024
_STACK_BYTES_MIN = 1024 * 1024
_ORDINARY_STACK_TEXT_BYTES_MAX = 1024


class Tokenizer(Protocol):
    """The interface of a model's vocabulary for the server."""

    @property
    def info(self) -> ModelInfo | None:
        """The model's properties in the file; None if the vocabulary is not from a file."""

    @property
    def vocabulary_size(self) -> int:
        """Token ids go from 0 to this, exclusive."""

    @property
    def control_tokens(self) -> ControlTokens:
        """The tokens that stand for no text, by their names."""

    @property
    def stop_tokens(self) -> frozenset[int]:
        """The tokens by which the model says that it is done."""

    @property
    def longest_piece(self) -> int:
        """Bytes of text that one token stands for at most.

        A text of more than `longest_piece * n` bytes has more than `n` tokens:
        so a text that cannot fit is refused before it is tokenized.
        """

    @property
    def bos_text(self) -> str:
        """The beginning-of-sequence token's name; empty where there is none."""

    @property
    def eos_text(self) -> str:
        """The end-of-sequence token's name; empty where there is none."""

    @property
    def chat_template(self) -> str | None:
        """Jinja source, or None."""

    @property
    def training_context(self) -> int:
        """Tokens; 0 where the model does not say."""

    def encode(self, text: str, *, special: bool) -> list[int]:
        """The tokens of `text`, after a beginning-of-sequence token where the vocabulary asks.

        Args:
            text: Any text; an empty one may give no tokens.
            special: Whether the names of control tokens in `text` become those
                tokens. Otherwise they are text like any other.

        Raises:
            MemoryError: The text is far too long.
            UnicodeEncodeError: The text has half a surrogate pair.
        """

    def encode_pieces(self, pieces: Iterable[str | int]) -> list[int]:
        """The tokens of a rendered conversation, after a beginning-of-sequence token as above.

        The result is that of `encode` with `special` over the whole text, had only
        these control tokens been named in it.

        Args:
            pieces: Control tokens, and the texts between them, as
                `ControlTokens.split` gives them. No name in these is a control token.

        Raises:
            MemoryError, UnicodeEncodeError: As `encode`.
        """

    def piece(self, token: int) -> bytes:
        """The text of a token; empty for control tokens. Raises IndexError out of range."""

    def name(self, token: int) -> bytes:
        """As `piece`, but control tokens show their names. Raises IndexError out of range."""


class LlamaTokenizer:
    """The vocabulary of a GGUF file, through llama.cpp, without the weights.

    Immutable after construction; `encode` may be called from several threads
    at once, and holds the GIL for neither of them.
    """

    def __init__(self, path: Path) -> None:
        """Load the vocabulary of the file at `path`.

        Raises:
            ModelNotFound: There is no such file.
            ModelFileError: The file is truncated, not GGUF, or of an
                architecture or vocabulary that llama.cpp does not know.
            LibraryMissing: llama.cpp is not installed.
        """
        self.info: ModelInfo = ModelInfo.read(path)
        if self.info.vocabulary_kind in _NO_VOCABULARY or not self.info.vocabulary_size:
            raise ModelFileError(f"{path} has no vocabulary")
        self._library = library()
        model = _load_vocabulary(self._library, path)
        weakref.finalize(self, self._library.llama_model_free, model)
        self._vocabulary = self._library.llama_model_get_vocab(model)
        size: int = self._library.llama_vocab_n_tokens(self._vocabulary)
        self._check_bytes(path, size)
        self._names = self._texts(size, special=True)
        pieces = self._texts(size, special=False)
        # All but the control tokens' are the same: one copy of each is enough.
        self._pieces = [
            name if name == piece else piece
            for name, piece in zip(self._names, pieces, strict=True)
        ]
        self.control_tokens = self._control_tokens(pieces)
        special = SpecialTokens(self._library, self._vocabulary, self.info.special_tokens)
        adds_bos = self._library.llama_vocab_get_add_bos(self._vocabulary)
        self._prefix = [special.bos] if adds_bos and special.bos is not None else []
        self.vocabulary_size = size
        self.longest_piece = max(_CHARACTER_BYTES_MAX, *map(len, self._names))
        self.stop_tokens = special.ends()
        self.bos_text = self._text(special.bos)
        self.eos_text = self._text(special.eos)
        self.chat_template = self.info.chat_template
        self.training_context = self.info.training_context

    def encode(self, text: str, *, special: bool) -> list[int]:
        """See `Tokenizer.encode`."""
        tokens = self._tokenize(text.encode("utf-8"), special)
        # A chat template may have written the token itself; a prompt cannot.
        written = special and tokens[:1] == self._prefix
        return tokens if written else self._prefix + tokens

    def encode_pieces(self, pieces: Iterable[str | int]) -> list[int]:
        """See `Tokenizer.encode_pieces`."""
        tokens = joined_tokens(pieces, lambda text: self._tokenize(text.encode("utf-8"), False))
        return tokens if tokens[:1] == self._prefix else self._prefix + tokens

    def piece(self, token: int) -> bytes:
        """See `Tokenizer.piece`."""
        return self._pieces[self._checked(token)]

    def name(self, token: int) -> bytes:
        """See `Tokenizer.name`."""
        return self._names[self._checked(token)]

    def _tokenize(self, data: bytes, special: bool) -> list[int]:
        """Tokenize UTF-8, on a stack that has room for it."""
        if len(data) <= _ORDINARY_STACK_TEXT_BYTES_MAX:
            return self._tokenize_here(data, special)
        stack_bytes = len(data) * _STACK_BYTES_PER_TEXT_BYTE + _STACK_BYTES_MIN
        return call_with_stack(stack_bytes, lambda: self._tokenize_here(data, special))

    def _tokenize_here(self, data: bytes, special: bool) -> list[int]:
        # One token a byte, and some for what a vocabulary puts in front.
        capacity = len(data) + 8
        while True:
            tokens = (ctypes.c_int32 * capacity)()
            count = self._library.llama_tokenize(
                self._vocabulary, data, len(data), tokens, capacity, False, special
            )
            if count >= 0:
                return tokens[:count]
            capacity = -count

    def _checked(self, token: int) -> int:
        if not 0 <= token < len(self._pieces):
            raise IndexError(f"token {token} is not within 0 to {len(self._pieces) - 1}")
        return token

    def _texts(self, size: int, special: bool) -> list[bytes]:
        """The text of every token, read once: `piece` is called for every token produced."""
        write = self._library.llama_token_to_piece
        buffer = ctypes.create_string_buffer(256)
        texts: list[bytes] = []
        for token in range(size):
            length = write(self._vocabulary, token, buffer, len(buffer), 0, special)
            if length < 0:
                buffer = ctypes.create_string_buffer(-length)
                length = write(self._vocabulary, token, buffer, len(buffer), 0, special)
            texts.append(buffer.raw[:length])
        return texts

    def _control_tokens(self, pieces: Sequence[bytes]) -> ControlTokens:
        """The tokens that show a name only where control tokens are shown."""
        names: dict[str, int] = {}
        for token, (name, piece) in enumerate(zip(self._names, pieces, strict=True)):
            if name and not piece:
                names.setdefault(name.decode("utf-8", "replace"), token)
        attributes = {
            token: self._library.llama_vocab_get_attr(self._vocabulary, token)
            for token in names.values()
        }
        return ControlTokens(
            names,
            strips_left=[token for token, flags in attributes.items() if flags & _STRIPS_LEFT],
            strips_right=[token for token, flags in attributes.items() if flags & _STRIPS_RIGHT],
        )

    def _check_bytes(self, path: Path, size: int) -> None:
        """Refuse a vocabulary that cannot spell every text: llama.cpp would abort the process."""
        if self._library.llama_vocab_type(self._vocabulary) != _SENTENCEPIECE:
            return
        attributes = self._library.llama_vocab_get_attr
        spelled = sum(
            bool(attributes(self._vocabulary, token) & _BYTE_ATTRIBUTE) for token in range(size)
        )
        if spelled < _BYTES:
            raise ModelFileError(f"{path} has a vocabulary without a token for every byte")

    def _text(self, token: int | None) -> str:
        return "" if token is None else self.name(token).decode("utf-8", "replace")


def _load_vocabulary(lib: Any, path: Path) -> Any:
    parameters = lib.llama_model_default_params()
    parameters.vocab_only = True
    with captured_errors() as lines:
        model = lib.llama_model_load_from_file(os.fsencode(path), parameters)
    if not model:
        reasons = [line for line in lines if "error loading model" in line] or list(lines)
        reason = reasons[0].rpartition("error loading model: ")[2] if reasons else "no reason given"
        raise ModelFileError(f"{path} cannot be loaded by llama.cpp: {reason}")
    return model
