"""Says what is wrong with a configuration, a line for each problem."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from llm_serving_engine.server.setting_names import did_you_mean
from llm_serving_engine.server.validation_message import not_a_number, plain_message

# What pydantic calls a name that a part does not have.
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
# What it adds to the name of a setting that can be of several types.
_TYPE_TRIED = re.compile(r"\.(bool|literal\[.*\])$")
# What it says where something else stands in the place of a table.
_TABLES = ("model_type", "dataclass_type", "dict_type")


def booleans_as_numbers(content: Mapping[str, Any], part: Any, where: str = "") -> Iterator[str]:
    """Yield a problem for each boolean of a file that pydantic read as 1 or 0.

    Args:
        content: A table of the file.
        part: The part of the configuration that was made of it.
        where: The names of the tables around it, each with a dot.
    """
    for name, value in content.items():
        setting = getattr(part, name, value)
        if isinstance(value, bool) and type(setting) in (int, float):
            yield f"{where}{name}: {not_a_number(value)}"
        elif isinstance(value, dict):
            yield from booleans_as_numbers(value, setting, f"{where}{name}.")


def problems(errors: Iterable[ErrorDetails], names: Iterable[str]) -> list[str]:
    """Return a line for each setting that pydantic's errors name.

    Args:
        errors: Of a setting that can be of several types, one for each.
        names: Of all settings.
    """
    whats: dict[str, list[str]] = {}
    for error in errors:
        where = _where(error["loc"])
        whats.setdefault(where, []).append(_what(error, where, names))
    return [f"{where}: {', or '.join(what)}" for where, what in whats.items()]


def _what(error: ErrorDetails, where: str, names: Iterable[str]) -> str:
    if error["type"] in _UNKNOWN:
        return f"there is no such setting{did_you_mean(where, names)}"
    if error["type"] in _TABLES:
        return "must be a table"
    return plain_message(error["msg"])


def _where(location: tuple[int | str, ...]) -> str:
    """The setting's name, without the type that was tried."""
    where = ".".join(str(part) for part in location)
    return _TYPE_TRIED.sub("", where) or "configuration"
