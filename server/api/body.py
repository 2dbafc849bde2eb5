"""Request bodies: fields are honoured, refused, or ignored on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from llm_serving_engine.scheduler.errors import InvalidField
from llm_serving_engine.server.api.errors import BadBody
from llm_serving_engine.server.api.http_exchange import HttpExchange
from llm_serving_engine.server.validation_message import plain_message

IGNORED_HEADER = "x-ignored-fields"
# Names that callers chose go back in a header: few, short, and printable.
IGNORED_NAMES_MAX = 32
NAME_CHARACTERS_MAX = 64

# Clients send these, as the choice among no tools, without wanting anything.
ASKS_FOR_NOTHING: tuple[object, ...] = (
    *(False, [], {}),
    *("none", "auto", {"type": "none"}, {"type": "auto"}),
)
# What pydantic says in Python's words, in those of JSON.
PROBLEMS: Mapping[str, str] = {
    "missing": "is missing",
    "int_parsing_size": "is too large",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be a list",
}

_B = TypeVar("_B", bound="Body")


class _Fields(BaseModel):
    """Fields of a body or of a part. One that is null counts as left out."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: one for name, one in value.items() if one is not None}


class Body(_Fields):
    """The JSON body of a request.

    A field that the class declares is honoured. One in `refused` ends the
    request, unless it has a value that asks for nothing. Every other is
    ignored, and the answer's header `x-ignored-fields` names it.

    Attributes:
        refused: Fields that ask for what this server does not do, and what
            their error says.
    """

    model_config = ConfigDict(extra="allow")

    refused: ClassVar[Mapping[str, str]] = {}

    @property
    def ignored(self) -> list[str]:
        """The names of the fields that were ignored."""
        return list(self.model_extra or {})


class Item(_Fields):
    """A part of a body. Its unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")


async def read_body(exchange: HttpExchange, kind: type[_B]) -> _B:
    """Read the request's body as a `kind`; list the ignored fields in a header.

    Raises:
        InvalidField: A field has the wrong type, or asks for what is not done.
        BadBody, BodyTooLarge: It is not a JSON object, or too large.
    """
    value = await exchange.read()
    exchange.watch()
    if not isinstance(value, dict):
        raise BadBody("the body must be a JSON object")
    _refuse(kind, value)
    try:
        body = kind.model_validate(value)
    except ValidationError as error:
        raise _first_problem(error) from None
    if ignored := body.ignored:
        names = (name[:NAME_CHARACTERS_MAX] for name in ignored[:IGNORED_NAMES_MAX])
        printable = (name for name in names if name.isascii() and name.isprintable())
        exchange.add_header(IGNORED_HEADER, ", ".join(printable))
    return body


def _refuse(kind: type[Body], value: dict[str, Any]) -> None:
    for name, reason in kind.refused.items():
        if value.get(name) is not None and value[name] not in ASKS_FOR_NOTHING:
            raise InvalidField(name, reason)


def _first_problem(error: ValidationError) -> InvalidField:
    problems = error.errors(include_url=False, include_input=False)
    # Which alternative of a union it was is pydantic's affair; the one that was meant
    # has its problem furthest inside.
    places = [[part for part in one["loc"] if not _is_alternative(part)] for one in problems]
    place, problem = max(zip(places, problems, strict=True), key=lambda one: len(one[0]))
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    message = PROBLEMS.get(problem["type"]) or plain_message(problem["msg"])
    return InvalidField(where.removeprefix(".") or "body", message)


def _is_alternative(part: int | str) -> bool:
    return isinstance(part, str) and ("[" in part or part in ("str", "int", "float", "bool"))
