"""Handles models split into several files, `NAME-00001-of-00003.gguf` and so on."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from llm_serving_engine.backends.models.errors import ModelFileError, ModelNotFound
from llm_serving_engine.backends.models.gguf_file import GGUFFile

# As llama.cpp writes them, and the only names under which it finds the other parts.
_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)", re.S)
PARTS_MAX = 4096


class PartName(NamedTuple):
    """The name of one part.

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
        """Parse a file's name; None if it is not a part's."""
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


def read_whole(path: Path) -> GGUFFile:
    """Read the header of a model's file; of a split one, the headers of all parts as one.

    Args:
        path: The file, or any part.

    Raises:
        ModelNotFound: There is no such file, or a part is missing.
        ModelFileError: It is not a GGUF file, or the parts do not belong together.
    """
    file = GGUFFile.read(path)
    total = _integer(file, "split.count")
    if total <= 1:
        return file
    number = _integer(file, "split.no") + 1
    part = PartName.parse(path.name)
    if part is None or (part.number, part.total) != (number, total):
        wanted = f"NAME-{number:05d}-of-{total:05d}.gguf"
        raise ModelFileError(
            f"{path} is part {number} of {total}: call it {wanted}, beside the others"
        )
    first = first_part(path)
    files = [GGUFFile.read(each) for each in parts_by_name(path)]
    for index, each in enumerate(files):
        if (_integer(each, "split.no"), _integer(each, "split.count")) != (index, total):
            raise ModelFileError(f"{each.path} is not part {index + 1} of {total}")
    tensors = tuple(tensor for each in files for tensor in each.tensors)
    expected = _integer(files[0], "split.tensors.count") or len(tensors)
    if len({tensor.name for tensor in tensors}) != expected:
        raise ModelFileError(
            f"the parts of {first} hold {len(tensors)} tensors, and {expected} belong to the model"
        )
    return replace(files[0], path=first, size=sum(each.size for each in files), tensors=tensors)


def _integer(file: GGUFFile, key: str) -> int:
    value = file.metadata.get(key)
    return value if isinstance(value, int) else 0
