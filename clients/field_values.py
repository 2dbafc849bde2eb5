"""Says which field of a message cannot hold a value, and what it can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_WORDS = {
    FieldDescriptor.CPPTYPE_UINT32: f"an integer from 0 to {2**32 - 1}",
    FieldDescriptor.CPPTYPE_UINT64: f"an integer from 0 to {2**64 - 1}",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_STRING: "a text",
    FieldDescriptor.CPPTYPE_BOOL: "True or False",
    FieldDescriptor.CPPTYPE_MESSAGE: "a mapping of token ids to numbers",
}


def check_fields(kind: type[Message], values: Mapping[str, Any]) -> None:
    """Check that a message can hold the values.

    Raises:
        TypeError, ValueError: It cannot hold one; the text names the field.
    """
    try:
        kind(**values)
    except (TypeError, ValueError):
        for name, value in values.items():
            _check_field(kind, name, value)


def _check_field(kind: type[Message], name: str, value: Any) -> None:
    try:
        kind(**{name: value})
    except (TypeError, ValueError) as error:
        what = _described(kind, name)
        raise type(error)(f"{name} is {value!r:.100}; it can be {what}") from None


def _described(kind: type[Message], name: str) -> str:
    field = kind.DESCRIPTOR.fields_by_name[name]
    words = _WORDS[field.cpp_type]
    lists = field.is_repeated and field.cpp_type != FieldDescriptor.CPPTYPE_MESSAGE
    return f"a list, each {words}" if lists else words
