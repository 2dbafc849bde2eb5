"""Messages of pydantic in plain words."""

from __future__ import annotations


def plain_message(message: str) -> str:
    """Say what a value must be, without the name of the error that a validator raised."""
    plain = message.replace("Value error, ", "").replace("Input should be", "must be")
    return plain.replace("a valid tuple", "a list")
