"""Messages of pydantic in plain words."""

from __future__ import annotations


def plain_message(message: str) -> str:
    """Say what a value must be, without the name of the error that a validator raised."""
    return message.replace("Value error, ", "").replace("Input should be", "must be")
