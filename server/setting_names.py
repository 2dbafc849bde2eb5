"""Lists the names of all settings, and finds the nearest one to an unknown name."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

DELIMITER = "__"


def setting_names(tree: BaseModel) -> dict[str, bool]:
    """Return all dotted names of settings and parts, and whether keys below them are free."""
    return dict(_names(tree, ""))


def unknown_variables(
    environ: Iterable[str], prefix: str, names: Mapping[str, bool]
) -> Iterator[str]:
    """A line for each variable with our prefix that is no setting."""
    for variable in sorted(environ):
        if not variable.upper().startswith(prefix):
            continue
        name = variable[len(prefix) :].lower().replace(DELIMITER, ".")
        if not _known(name, names):
            near = _nearest(name, names)
            suggestion = f"; did you mean {_variable(near, prefix)}?" if near else ""
            yield f"{variable}: there is no such setting{suggestion}"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a suggestion of the nearest setting, to end a sentence; empty if none is near."""
    near = _nearest(name, names)
    return f"; did you mean {near}?" if near else ""


def _names(part: Any, where: str) -> Iterator[tuple[str, bool]]:
    kind = type(part)
    fields = kind.model_fields if isinstance(part, BaseModel) else kind.__dataclass_fields__
    for field in fields:
        name, value = f"{where}{field}", getattr(part, field)
        yield name, isinstance(value, dict)
        if isinstance(value, BaseModel) or dataclasses.is_dataclass(value):
            yield from _names(value, f"{name}.")


def _known(name: str, names: Mapping[str, bool]) -> bool:
    parts = name.split(".")
    above = (".".join(parts[:end]) for end in range(1, len(parts)))
    return name in names or any(names.get(part, False) for part in above)


def _variable(name: str, prefix: str) -> str:
    return prefix + name.upper().replace(".", DELIMITER)


def _nearest(name: str, known: Iterable[str]) -> str:
    # Where nothing is near, the name's own table would be.
    names = [other for other in known if not name.startswith(f"{other}.")]
    # A right name in the wrong part is nearer than any other.
    last = name.rpartition(".")[2]
    places = [other for other in names if other.rpartition(".")[2] == last]
    if len(places) == 1:
        return places[0]
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.8)), "")
