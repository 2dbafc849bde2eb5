"""Number types of request bodies. None of them takes a boolean, which pydantic would read as 1."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, StrictInt


def _not_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {str(value).lower()}")
    return value


Integer = Annotated[int, BeforeValidator(_not_boolean)]
Number = Annotated[float, BeforeValidator(_not_boolean)]
# Checked without a call into Python: a prompt can have a hundred thousand.
Token = StrictInt
