"""Checks of a request's fields."""

from __future__ import annotations

from llm_serving_engine.scheduler.errors import InvalidField


def check(holds: bool, field: str, description: str) -> None:
    """Refuse a field. Raises InvalidField unless `holds`."""
    if not holds:
        raise InvalidField(field, description)
