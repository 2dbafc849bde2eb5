"""The types of settings, with their ranges."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from llm_serving_engine.server.addresses import PORT_MAX, check_address, check_host


def _check_text(value: object) -> str:
    """Accept any text: pydantic's own type refuses a path that is not UTF-8."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")
    return value


def _split(value: object) -> object:
    """Read a list from texts with commas between them, as environment variables have it."""
    if not isinstance(value, str):
        return value
    if value.startswith('["'):
        raise ValueError("is not a JSON list")
    return [part.strip() for part in value.split(",") if part.strip()]


T = TypeVar("T")
ListOf = Annotated[tuple[T, ...], BeforeValidator(_split)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]
Timeout = Annotated[float, Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=PORT_MAX)]
Host = Annotated[str, AfterValidator(check_host)]
ListenAddress = Annotated[str, AfterValidator(check_address)]
Text = Annotated[str, PlainValidator(_check_text)]
