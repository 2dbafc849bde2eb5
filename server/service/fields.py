"""Checks of a request's fields."""

from __future__ import annotations

from collections.abc import Sequence

from llm_serving_engine.scheduler.errors import InvalidField


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
