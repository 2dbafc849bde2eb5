"""Checks a request's fields."""

from __future__ import annotations

from collections.abc import Sequence

from llm_serving_engine.scheduler.errors import InvalidField


class ContextExceeded(InvalidField):
    """The request can never fit the model's context.

    Attributes:
        context: Tokens that the model's context holds.
    """

    def __init__(self, field: str, description: str, context: int) -> None:
        super().__init__(field, description)
        self.context = context


def check_fits(holds: bool, field: str, description: str, context: int) -> None:
    """Refuse what cannot fit the context. Raises ContextExceeded unless `holds`."""
    if not holds:
        raise ContextExceeded(field, description, context)


def check(holds: bool, field: str, description: str) -> None:
    """Refuse a field. Raises InvalidField unless `holds`."""
    if not holds:
        raise InvalidField(field, description)


def check_tokens(ids: Sequence[int], field: str, vocabulary_size: int) -> None:
    """Refuse token ids outside of the vocabulary. Raises InvalidField."""
    if not ids:
        return
    largest, smallest = max(ids), min(ids)
    last = vocabulary_size - 1
    check(largest <= last, field, f"has {largest}; the vocabulary ends at {last}")
    check(smallest >= 0, field, f"has {smallest}; the vocabulary begins at 0")
