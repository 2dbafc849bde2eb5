"""Models that are split into several files, `NAME-00001-of-00003.gguf` and so on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from llm_serving_engine.backends.models.errors import ModelNotFound

# As llama.cpp writes them, and the only names under which it finds the other parts.
_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)", re.S)
PARTS_MAX = 4096


class PartName(NamedTuple):
    """What the name of one part says.

    Attributes:
        stem: The name of the whole, with its folder where there is one.
        number: Which part, from 1.
        total: How many parts there are.
    """

    stem: str
    number: int
    total: int

    @classmethod
    def parse(cls, name: str) -> PartName | None:
        """Read a file's name; None where it is not a part's."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        part = cls(found["stem"], int(found["number"]), int(found["count"]))
        return part if 1 <= part.number <= part.total <= PARTS_MAX else None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parts, in order."""
        return tuple(
            f"{self.stem}-{number:05d}-of-{self.total:05d}.gguf"
            for number in range(1, self.total + 1)
        )


def parts_by_name(path: Path) -> tuple[Path, ...]:
    """All parts of the model that a path names one part of, whether they are there or not.

    Returns:
        The path itself where its name is not a part's.
    """
    part = PartName.parse(path.name)
    return (path,) if part is None else tuple(path.with_name(name) for name in part.names)


def first_part(path: Path) -> Path:
    """The part from which llama.cpp loads the whole, given any part.

    Raises:
        ModelNotFound: A part is missing.
    """
    parts = parts_by_name(path)
    missing = [part.name for part in parts if not part.is_file()]
    if missing and len(parts) > 1:
        several = "parts" if len(missing) > 1 else "part"
        listed = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ModelNotFound(
            f"{path} is one of {len(parts)} parts, and the {several} {listed} "
            f"{'are' if len(missing) > 1 else 'is'} missing in {path.parent}"
        )
    return parts[0]
