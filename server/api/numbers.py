"""Numbers of requests, in bodies and in headers.

Some clients send numbers as texts, which must be as JSON writes numbers: Python would also
read "1_0", blanks around a number, and digits of other scripts. A boolean is no number.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, StrictInt

from llm_serving_engine.server.validation_message import not_a_number

# Those of a seed. Python's integers have no limit of their own.
INTEGER_BITS_MAX = 64

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def is_number(text: str) -> bool:
    """Whether a text is a number as JSON writes it; leading zeros are allowed."""
    return _NUMBER.fullmatch(text) is not None


def _check_number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(not_a_number(value))
    if isinstance(value, str) and not is_number(value):
        raise ValueError("must be a number")
    return value


def _not_huge(value: int) -> int:
    if value.bit_length() > INTEGER_BITS_MAX:
        raise ValueError("is too large")
    return value


Integer = Annotated[int, BeforeValidator(_check_number), AfterValidator(_not_huge)]
Number = Annotated[float, BeforeValidator(_check_number)]
# Checked without a call into Python: a prompt can have a hundred thousand.
Token = StrictInt
