"""Counts the contents of a message's bytes before they are parsed.

A message of a few megabytes can hold millions of fields. Parsing makes an
object of each and holds the interpreter meanwhile, so the event loop stands
still. Counting stops at the limit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from llm_serving_engine.scheduler.errors import InvalidField

# Smaller messages are parsed in a fraction of a millisecond, whatever is in them.
UNCOUNTED_BYTES_MAX = 32 * 1024
# What an entry of metadata counts beside its bytes, as HTTP/2 counts it.
ENTRY_BYTES = 32

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_PACKABLE = frozenset(range(1, 19)) - {
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_BYTES,
    FieldDescriptor.TYPE_MESSAGE,
    FieldDescriptor.TYPE_GROUP,
}
# Packed numbers are parsed this many times as fast as fields.
_NUMBERS_PER_FIELD = 128


class MessageTooLarge(InvalidField):
    """A request message exceeds a limit of the configuration."""

    label = "message_too_large"


_Kinds = dict[int, tuple[FieldDescriptor, bool]]
_kinds: dict[str, _Kinds] = {}


@dataclass(frozen=True, slots=True)
class MessageLimits:
    """Enforces the limits of request messages.

    Attributes:
        bytes_max: All of it.
        fields_max: Fields, those of the messages in it included; 128 bytes of
            packed numbers count as one.
        string_bytes_max: Each text.
        metadata_bytes_max: What comes before it, ENTRY_BYTES for each entry added.
    """

    bytes_max: int
    fields_max: int
    string_bytes_max: int
    metadata_bytes_max: int

    def check_metadata(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Check metadata: gRPC's library accepts some that exceed its limit.

        Raises:
            MessageTooLarge: They are too large.
        """
        size = sum(len(name) + len(value) + ENTRY_BYTES for name, value in metadata)
        if size > self.metadata_bytes_max:
            limit = self.metadata_bytes_max
            raise MessageTooLarge("metadata", f"have {size} bytes; the limit is {limit}")

    def check(self, data: bytes, kind: Descriptor) -> None:
        """Check a message's contents. Invalid bytes pass here; the parser refuses them.

        Raises:
            MessageTooLarge: It is too large, or it has too many fields or too long a text.
        """
        size = len(data)
        if size > self.bytes_max:
            limit = f"{self.bytes_max / 2**20:g} MiB"
            raise MessageTooLarge("request", f"has {size / 1e6:.1f} MB; the limit is {limit}")
        if size > UNCOUNTED_BYTES_MAX:
            with contextlib.suppress(IndexError):
                _Count(self).count(data, 0, size, kind, "")


class _Count:
    """Counts the fields of one message, up to the limit."""

    def __init__(self, limits: MessageLimits) -> None:
        self._limits = limits
        self._left = limits.fields_max * _NUMBERS_PER_FIELD

    def count(self, data: bytes, at: int, end: int, kind: Descriptor, where: str) -> None:
        """Count the fields from `at` to `end`, which belong to the field `where`."""
        kinds = _fields_of(kind)
        while at < end:
            tag, at = _varint(data, at)
            self._take(_NUMBERS_PER_FIELD, where)
            wire = tag & 7
            if wire == _LENGTH:
                size, at = _varint(data, at)
                known = kinds.get(tag >> 3)
                if known is not None and size:
                    self._count_inside(data, at, min(at + size, end), known, where)
                at += size
            elif wire == _VARINT:
                _, at = _varint(data, at)
            elif wire == _FIXED64:
                at += 8
            elif wire == _FIXED32:
                at += 4
            # Groups are counted as their fields.

    def _count_inside(
        self, data: bytes, at: int, end: int, known: tuple[FieldDescriptor, bool], where: str
    ) -> None:
        field, packable = known
        path = f"{where}.{field.name}" if where else field.name
        if field.message_type is not None:
            self.count(data, at, end, field.message_type, path)
        elif packable:
            # Not the exact number, which would take a look at each byte.
            self._take(end - at, path)
        elif end - at > self._limits.string_bytes_max:
            raise MessageTooLarge(
                path, f"has {end - at} bytes; the limit is {self._limits.string_bytes_max}"
            )

    def _take(self, numbers: int, where: str) -> None:
        self._left -= numbers
        if self._left < 0:
            limit = self._limits.fields_max
            raise MessageTooLarge(
                where or "request",
                f"has too many entries; a request can have {limit} fields in all, "
                f"or {limit * _NUMBERS_PER_FIELD} bytes of numbers",
            )


def _fields_of(kind: Descriptor) -> _Kinds:
    known = _kinds.get(kind.full_name)
    if known is None:
        known = {field.number: (field, field.type in _PACKABLE) for field in kind.fields}
        _kinds[kind.full_name] = known
    return known


def _varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while True:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7
        if shift > 63:
            raise IndexError("a number that is no varint")
