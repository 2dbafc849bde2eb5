"""Reads the header of a GGUF file: its keys and tensors, without weights.

Every length is checked against the file before it is believed, and what is
skipped is not read. The file is not mapped: one that is cut off while it is read
would end the process.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from llm_serving_engine.backends.models.errors import ModelFileError, ModelNotFound

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_HEADER_BYTES_MIN = 24

# Far above any real model's, far below what would take long or much memory.
_ENTRIES_MAX = 65_536
_TENSORS_MAX = 65_536
_STRING_BYTES_MAX = 16 * 1024 * 1024
_ARRAY_STRINGS_MAX = 4_000_000
_KEPT_ARRAY_LENGTH_MAX = 4_096
_KEPT_NUMBERS_MAX = 1_000_000
_DIMENSIONS_MAX = 4
_ALIGNMENT_MAX = 1 << 20
_CHUNK_BYTES = 1 << 20

_SCALARS = {
    code: struct.Struct(f"<{letter}")
    for code, letter in {
        0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
    }.items()
}  # fmt: skip
_UINT32 = _SCALARS[4]
_UINT64 = _SCALARS[10]
_STRING = 8
_ARRAY = 9


class TensorType(NamedTuple):
    """How weights are stored: `bytes` bytes for every `block` of them."""

    name: str
    block: int
    bytes: int


TENSOR_TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    24: TensorType("I8", 1, 1),
    25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4),
    27: TensorType("I64", 1, 8),
    28: TensorType("F64", 1, 8),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    39: TensorType("MXFP4", 32, 17),
    40: TensorType("NVFP4", 64, 36),
    41: TensorType("Q1_0", 128, 18),
    42: TensorType("Q2_0", 64, 18),
}


class Tensor(NamedTuple):
    """One tensor's place in the file.

    Attributes:
        name: Its name, such as "blk.0.attn_q.weight".
        shape: Its dimensions, fastest first.
        type: How it is stored.
        offset: From the start of the file's data, in bytes.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int

    @property
    def elements(self) -> int:
        """How many weights it holds."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes in the file."""
        return self.elements // self.type.block * self.type.bytes


_Strings = dict[str, tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """A file's header.

    Attributes:
        path: The file.
        size: Bytes of the file.
        version: Of the format.
        metadata: Scalars, strings, and numeric arrays of up to 4,096 elements.
        array_lengths: The length of every array, kept or not.
        tensors: All tensors, in the file's order.
    """

    path: Path
    size: int
    version: int
    metadata: Mapping[str, Any]
    array_lengths: Mapping[str, int]
    tensors: tuple[Tensor, ...]

    @classmethod
    def read(cls, path: Path) -> GGUFFile:
        """Read and check the header, and that all of the tensors' data is there.

        Raises:
            ModelNotFound: There is no such file.
            ModelFileError: It is not a GGUF file, or not a whole one.
        """
        return _read(path)[0]


def read_strings(path: Path, *keys: str) -> tuple[tuple[bytes, ...], ...]:
    """Read the arrays of strings under some keys; empty for a missing key.

    Raises:
        ModelNotFound: There is no such file.
        ModelFileError: It is not a GGUF file, or not a whole one.
    """
    _, strings = _read(path, frozenset(keys))
    return tuple(strings.get(key, ()) for key in keys)


def _read(path: Path, wanted: frozenset[str] = frozenset()) -> tuple[GGUFFile, _Strings]:
    """Read a header, and those arrays of strings that are wanted."""
    try:
        # Opening a pipe would wait for someone to write into it.
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError(f"{path} is not a regular file")
            if status.st_size < _HEADER_BYTES_MIN:
                raise ModelFileError(
                    f"{path} is not a GGUF file: it has only {status.st_size} bytes"
                )
            reader = _Reader(path, file, status.st_size, wanted)
            return reader.file(), reader.strings
    except FileNotFoundError:
        raise ModelNotFound(f"there is no file {path}") from None
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}") from error


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class _Reader:
    """Walks over a header; every read is checked against the file's end."""

    def __init__(self, path: Path, file: BinaryIO, size: int, wanted: frozenset[str]) -> None:
        self.strings: _Strings = {}
        self._path = path
        self._file = file
        self._wanted = wanted
        self._size = size
        self._position = 0
        # A window of the file, from `_start`.
        self._window = b""
        self._start = 0
        self._strings_left = _ARRAY_STRINGS_MAX
        self._numbers_left = _KEPT_NUMBERS_MAX
        self._metadata: dict[str, Any] = {}
        self._array_lengths: dict[str, int] = {}

    def file(self) -> GGUFFile:
        if self._take(4) != _MAGIC:
            raise ModelFileError(f"{self._path} is not a GGUF file")
        version = self._scalar(_UINT32)
        if version not in _VERSIONS:
            raise ModelFileError(
                f"{self._path} is GGUF of version {version}; versions 2 and 3 (little-endian) work"
            )
        tensor_count = self._count(_TENSORS_MAX, "tensors")
        for _ in range(self._count(_ENTRIES_MAX, "metadata entries")):
            key = self._string()
            if key in self._metadata:
                raise self._broken(f"it gives {key!r} twice")
            self._metadata[key] = self._value(key, self._scalar(_UINT32))
        # Arrays that are not kept leave no entry.
        metadata = {key: value for key, value in self._metadata.items() if value is not None}
        tensors = tuple(self._tensor() for _ in range(tensor_count))
        if len({tensor.name for tensor in tensors}) < tensor_count:
            raise self._broken("two of its tensors have the same name")
        self._check_data(metadata, tensors)
        return GGUFFile(self._path, self._size, version, metadata, self._array_lengths, tensors)

    def _value(self, key: str, code: int) -> Any:
        if code in _SCALARS:
            return self._scalar(_SCALARS[code])
        if code == _STRING:
            return self._string()
        if code == _ARRAY:
            return self._array(key)
        raise self._broken(f"{key!r} has a value of unknown type {code}")

    def _array(self, key: str) -> tuple[Any, ...] | None:
        code = self._scalar(_UINT32)
        length = self._scalar(_UINT64)
        self._array_lengths[key] = length
        if code == _STRING:
            self._strings(key, length)
            return None
        if code not in _SCALARS:
            raise self._broken(f"{key!r} is an array of unknown type {code}")
        if length <= min(_KEPT_ARRAY_LENGTH_MAX, self._numbers_left):
            self._numbers_left -= length
            return tuple(self._scalar(_SCALARS[code]) for _ in range(length))
        self._skip(length * _SCALARS[code].size)
        return None

    def _strings(self, key: str, count: int) -> None:
        self._strings_left -= count
        if self._strings_left < 0:
            raise self._broken(f"{key!r} makes more than {_ARRAY_STRINGS_MAX} strings")
        if key in self._wanted:
            self.strings[key] = tuple(self._take(self._length()) for _ in range(count))
            return
        for _ in range(count):
            self._skip(self._length())

    def _tensor(self) -> Tensor:
        name = self._string()
        dimensions = self._scalar(_UINT32)
        if dimensions > _DIMENSIONS_MAX:
            raise self._broken(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self._scalar(_UINT64) for _ in range(dimensions))
        code = self._scalar(_UINT32)
        if code not in TENSOR_TYPES:
            raise ModelFileError(
                f"{self._path} stores weights as type {code}, which is unknown here"
            )
        return Tensor(name, shape, TENSOR_TYPES[code], self._scalar(_UINT64))

    def _check_data(self, metadata: Mapping[str, Any], tensors: tuple[Tensor, ...]) -> None:
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
        if (
            not isinstance(alignment, int)
            or not 0 < alignment <= _ALIGNMENT_MAX
            or alignment & (alignment - 1)
        ):
            raise self._broken(f"its alignment is {alignment!r}, which is not a power of two")
        for tensor in tensors:
            if tensor.offset % alignment:
                raise self._broken(f"tensor {tensor.name!r} does not begin at its alignment")
        start = -(-self._position // alignment) * alignment
        end = max((start + tensor.offset + tensor.bytes for tensor in tensors), default=start)
        if end > self._size and tensors:
            raise ModelFileError(f"{self._path} is truncated: it has {self._size} of {end} bytes")

    def _count(self, limit: int, what: str) -> int:
        count: int = self._scalar(_UINT64)
        if count > limit:
            raise self._broken(f"it claims {count} {what}")
        return count

    def _string(self) -> str:
        return self._take(self._length()).decode("utf-8", "replace")

    def _length(self) -> int:
        """The length of a string."""
        length: int = self._scalar(_UINT64)
        if length > _STRING_BYTES_MAX:
            raise self._broken(f"it claims a string of {length} bytes")
        return length

    def _scalar(self, layout: struct.Struct) -> Any:
        try:
            (value,) = layout.unpack_from(self._window, self._position - self._start)
        except struct.error:
            (value,) = layout.unpack(self._read_anew(layout.size))
        self._position += layout.size
        return value

    def _take(self, length: int) -> bytes:
        start = self._position - self._start
        taken = self._window[start : start + length]
        if len(taken) < length:
            taken = self._read_anew(length)
        self._position += length
        return taken

    def _read_anew(self, length: int) -> bytes:
        """The next bytes, from a window that begins with them."""
        if length > self._size - self._position:
            raise self._ends_early()
        self._file.seek(self._position)
        self._window = self._file.read(max(length, _CHUNK_BYTES))
        self._start = self._position
        if len(self._window) < length:
            raise self._ends_early()
        return self._window[:length]

    def _skip(self, length: int) -> None:
        if length > self._size - self._position:
            raise self._ends_early()
        self._position += length

    def _ends_early(self) -> ModelFileError:
        return ModelFileError(f"{self._path} is truncated: it ends within its header")

    def _broken(self, reason: str) -> ModelFileError:
        return ModelFileError(f"{self._path} is not a sound GGUF file: {reason}")
