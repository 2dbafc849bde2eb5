"""Messages of pydantic in plain words."""

from __future__ import annotations


def not_a_number(value: bool) -> str:
    """Say that a boolean, which pydantic reads as 1 or 0, stands for no number."""
    return f"must be a number, not {str(value).lower()}"


def plain_message(message: str) -> str:
    """Say what a value must be, without the name of the error that a validator raised."""
    plain = message.replace("Value error, ", "").replace("Input should be", "must be")
    plain = plain.replace("a valid boolean, unable to interpret input", "true or false")
    return plain.replace("a valid tuple", "a list")
