"""Reads the header of a legacy GGML file, the format before GGUF.

Such a file names neither its architecture nor its fields; whoever made it knew.
It holds, one after the other: numbers, the vocabulary, and the tensors, each
with its name in front.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path

from llm_serving_engine.backends.models.errors import ModelFileError, ModelNotFound
from llm_serving_engine.backends.models.gguf_file import TENSOR_TYPES, TensorType
from llm_serving_engine.backends.models.info import ModelInfo

_MAGIC = b"lmgg"  # "ggml" as a number in little-endian order
_OTHER_MAGICS = {b"tjgg": "GGJT", b"fmgg": "GGMF", b"algg": "GGLA"}

_UINT32 = struct.Struct("<I")
_FLOAT = struct.Struct("<f")

# Far above any real model's.
_VOCABULARY_MAX = 1 << 20
_TOKEN_BYTES_MAX = 65_536
_DIMENSIONS_MAX = 4
_TENSORS_MAX = 65_536

# Quantized weights were laid out in other ways before this version of the format.
_QUANTIZATION_VERSION = 2
_QUANTIZATION_FACTOR = 1000
_PLAIN_TYPES = ("F32", "F16")


@dataclass(frozen=True, slots=True)
class Layout:
    """How the files of one architecture begin.

    Attributes:
        fields: The numbers, in order.
        counted: The vocabulary is preceded by its size, once more.
        scored: Each token is followed by its score.
        cache_bytes: Bytes of one element of the cache.
        fixed_context: The cache is made for the context that the file says.
    """

    fields: tuple[str, ...]
    counted: bool = False
    scored: bool = False
    cache_bytes: int = 2
    fixed_context: bool = True


_GPT2 = ("vocabulary", "context", "width", "heads", "layers", "type")
_GPTJ = ("vocabulary", "context", "width", "heads", "layers", "rotary", "type")
_NEOX = ("vocabulary", "context", "width", "heads", "layers", "rotary", "parallel", "type")
_MPT = ("width", "context", "heads", "layers", "vocabulary", "alibi", "clip", "type")
_REPLIT = ("width", "context", "heads", "layers", "vocabulary", "type")

LAYOUTS = {
    "dolly-v2": Layout(_NEOX),
    "gpt2": Layout(_GPT2, counted=True, cache_bytes=4),
    "gpt_neox": Layout(_NEOX),
    "gptj": Layout(_GPTJ, counted=True),
    "mpt": Layout(_MPT, fixed_context=False),
    "replit": Layout(_REPLIT, scored=True),
    "starcoder": Layout(_GPT2, counted=True, cache_bytes=4),
}
"""By architecture, all that are read here."""


def is_legacy(path: Path) -> bool:
    """Whether the file has one of the formats before GGUF."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError:
        return False
    return magic == _MAGIC or magic in _OTHER_MAGICS


@dataclass(frozen=True, slots=True)
class GGMLFile:
    """A file's header.

    Attributes:
        layout: The order of its fields.
        tokens: The bytes of every token, by id.
        scores: A score for each token; empty if tokens have none.
        info: The model's properties.
    """

    layout: Layout
    tokens: tuple[bytes, ...]
    scores: tuple[float, ...]
    info: ModelInfo

    @classmethod
    def read(cls, path: Path, architecture: str | None) -> GGMLFile:
        """Read a header, and find every tensor's place.

        Raises:
            ModelNotFound: There is no such file.
            ModelFileError: It is not a whole file of that architecture.
        """
        known = ", ".join(LAYOUTS)
        if architecture is None:
            raise ModelFileError(
                f"{path} is a GGML file, which does not name its architecture: "
                f"set model.runner.architecture to one of {known}"
            )
        if architecture not in LAYOUTS:
            raise ModelFileError(
                f"model.runner.architecture is {architecture!r}; it can be one of {known}"
            )
        try:
            with path.open("rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    raise ModelFileError(f"{path} is empty")
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    return _Reader(path, data, architecture).file()
        except FileNotFoundError:
            raise ModelNotFound(f"there is no file {path}") from None
        except OSError as error:
            raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap, architecture: str) -> None:
        self._path = path
        self._data = data
        self._architecture = architecture
        self._layout = LAYOUTS[architecture]
        self._position = 0

    def file(self) -> GGMLFile:
        self._check_magic()
        numbers = {name: self._number() for name in self._layout.fields}
        self._check(numbers)
        tokens, scores = self._vocabulary(numbers["vocabulary"])
        tensors = self._tensors()
        return GGMLFile(self._layout, tokens, scores, self._info(numbers, tensors))

    def _check_magic(self) -> None:
        magic = self._take(len(_MAGIC))
        if magic in _OTHER_MAGICS:
            raise ModelFileError(
                f"{self._path} is a {_OTHER_MAGICS[magic]} file, which is not read here: "
                "convert it to GGUF"
            )
        if magic != _MAGIC:
            raise ModelFileError(f"{self._path} is not a GGML file")

    def _check(self, numbers: dict[str, int]) -> None:
        """Refuse a file of another architecture, before its bytes are read as lengths."""
        sound = (
            0 < numbers["vocabulary"] <= _VOCABULARY_MAX
            and 0 < numbers["context"] <= 1 << 20
            and 0 < numbers["layers"] <= 1 << 12
            and 0 < numbers["heads"] <= numbers["width"] <= 1 << 20
            and numbers["width"] % numbers["heads"] == 0
        )
        if not sound or (self._layout.counted and self._number() != numbers["vocabulary"]):
            raise self._other()

    def _vocabulary(self, size: int) -> tuple[tuple[bytes, ...], tuple[float, ...]]:
        tokens, scores = [], []
        for _ in range(size):
            length = self._number()
            if length > _TOKEN_BYTES_MAX:
                raise self._other()
            tokens.append(self._take(length))
            if self._layout.scored:
                scores.append(float(_FLOAT.unpack(self._take(_FLOAT.size))[0]))
        return tuple(tokens), tuple(scores)

    def _tensors(self) -> Counter[TensorType]:
        """The elements that are stored in each way."""
        stored: Counter[TensorType] = Counter()
        for _ in range(_TENSORS_MAX):
            if self._position == len(self._data):
                return stored
            dimensions, name_length, code = self._number(), self._number(), self._number()
            if not 0 < dimensions <= _DIMENSIONS_MAX or code not in TENSOR_TYPES:
                raise self._other()
            elements = prod(self._number() for _ in range(dimensions))
            self._take(name_length)
            kind = TENSOR_TYPES[code]
            self._skip(elements // kind.block * kind.bytes)
            stored[kind] += elements
        raise self._other()

    def _info(self, numbers: dict[str, int], stored: Counter[TensorType]) -> ModelInfo:
        if not stored:
            raise ModelFileError(f"{self._path} holds no weights")
        most = max(stored, key=lambda kind: stored[kind] * kind.bytes // kind.block)
        version = numbers["type"] // _QUANTIZATION_FACTOR
        if most.name not in _PLAIN_TYPES and version != _QUANTIZATION_VERSION:
            raise ModelFileError(
                f"{self._path} is quantized in version {version} of the format; "
                f"only version {_QUANTIZATION_VERSION} can be read"
            )
        head = numbers["width"] // numbers["heads"]
        return ModelInfo(
            path=self._path,
            architecture=self._architecture,
            description=self._path.stem,
            parameter_count=sum(stored.values()),
            quantization=most.name,
            vocabulary_size=numbers["vocabulary"],
            training_context=numbers["context"],
            layers=numbers["layers"],
            embedding_length=numbers["width"],
            heads=numbers["heads"],
            kv_heads=(numbers["heads"],) * numbers["layers"],
            key_length=head,
            value_length=head,
            weights_bytes=sum(n // kind.block * kind.bytes for kind, n in stored.items()),
            chat_template=None,
        )

    def _number(self) -> int:
        return int(_UINT32.unpack(self._take(_UINT32.size))[0])

    def _take(self, length: int) -> bytes:
        start = self._position
        self._skip(length)
        return self._data[start : self._position]

    def _skip(self, length: int) -> None:
        if length > len(self._data) - self._position:
            raise ModelFileError(f"{self._path} is truncated, or not of {self._architecture}")
        self._position += length

    def _other(self) -> ModelFileError:
        return ModelFileError(
            f"{self._path} is not a sound {self._architecture} file; "
            "model.runner.architecture may be another"
        )
