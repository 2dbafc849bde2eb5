"""Writes the table of settings in docs/configuration.md from server/config.py.

python deploy/settings.py           write it
python deploy/settings.py --check   fail where what is there differs
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from generated_section import update
from pydantic import BaseModel

from llm_serving_engine.server.config import ServerConfig

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
BEGIN = "<!-- settings: written by `make diagrams` -->"
END = "<!-- /settings -->"


class Setting(NamedTuple):
    """One leaf of the tree."""

    path: tuple[str, ...]
    default: object
    description: str


def settings(kind: type, default: object, path: tuple[str, ...] = ()) -> Iterator[Setting]:
    """The leaves below a part, in the order of the code."""
    descriptions = described(kind)
    for name in field_names(kind):
        value = getattr(default, name)
        if isinstance(value, BaseModel) or dataclasses.is_dataclass(value):
            yield from settings(type(value), value, (*path, name))
        else:
            yield Setting((*path, name), value, descriptions[name])


def field_names(kind: Any) -> list[str]:
    """The fields of a part, in the order of the code."""
    return list(kind.model_fields if issubclass(kind, BaseModel) else kind.__dataclass_fields__)


def described(kind: type) -> dict[str, str]:
    """What the code says of each field of a part, in one line."""
    if issubclass(kind, BaseModel):
        found = re.findall(
            r'^    (\w+):[^\n]*\n    """(.*?)"""', inspect.getsource(kind), re.S | re.M
        )
    else:
        section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
        found = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", section, re.S | re.M)
    return {name: " ".join(text.split()) for name, text in found}


def table() -> str:
    """All settings as a table."""
    lines = ["| setting | default | what it means |", "|---|---|---|"]
    for path, default, description in settings(ServerConfig, ServerConfig.model_construct()):
        lines.append(f"| `{'.'.join(path)}` | {shown(default)} | {description} |")
    return "\n".join(lines)


def shown(default: object) -> str:
    """A default as TOML has it."""
    if default is None:
        return "not set"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`{list(default)}`"
    return f'`"{default}"`' if isinstance(default, str) else f"`{default}`"


if __name__ == "__main__":
    sys.exit(update(DOCUMENT, BEGIN, END, table()))
