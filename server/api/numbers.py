"""Number types of request bodies. None of them takes a boolean, which pydantic would read as 1."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, StrictInt

from llm_serving_engine.server.validation_message import not_a_number

# Those of a seed. Python's integers have no limit of their own.
INTEGER_BITS_MAX = 64


def _not_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(not_a_number(value))
    return value


def _not_huge(value: int) -> int:
    if value.bit_length() > INTEGER_BITS_MAX:
        raise ValueError("is too large")
    return value


Integer = Annotated[int, BeforeValidator(_not_boolean), AfterValidator(_not_huge)]
Number = Annotated[float, BeforeValidator(_not_boolean)]
# Checked without a call into Python: a prompt can have a hundred thousand.
Token = StrictInt
