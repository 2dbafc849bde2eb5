"""Remembers what .venv/ was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any


class Stamp:
    """A file in .venv/ that says: made whole, from these inputs, with these extras.

    It is taken away before .venv/ is changed and written when all is done, so
    an environment that was left half made has none.
    """

    def __init__(self, path: Path, inputs: str) -> None:
        self._path = path
        self._inputs = inputs

    def extras(self) -> frozenset[str] | None:
        """The extras that are installed; None where .venv/ must be made afresh."""
        content = self._content()
        return None if content is None else frozenset(content["extras"])

    def compiler(self) -> str:
        """The C++ compiler that was there at the last self-check; empty if unknown."""
        content = self._content()
        return "" if content is None else str(content.get("compiler", ""))

    def write(self, extras: Collection[str], compiler: str) -> None:
        """Say that .venv/ is whole."""
        content = {"inputs": self._inputs, "extras": sorted(extras), "compiler": compiler}
        self._path.write_text(json.dumps(content) + "\n")

    def _content(self) -> dict[str, Any] | None:
        try:
            content = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return None
        return content if content.get("inputs") == self._inputs else None

    def remove(self) -> None:
        """Say that .venv/ is being changed."""
        self._path.unlink(missing_ok=True)


def digest(root: Path, values: Iterable[str]) -> str:
    """One hash of all that decides what is in .venv/: the checkout's files, and `values`."""
    deploy = root / "deploy"
    files = [
        root / "constraints.txt",
        deploy / "setup.py",
        deploy / "llama-cpp-only.cmake",
        deploy / "amx-tile-config.h",
        deploy / "build-constraints.txt",
        *sorted((deploy / "bootstrap").glob("*.py")),
    ]
    # The tables of the tools do not change what is installed.
    metadata = (root / "pyproject.toml").read_text().partition("\n[tool.")[0]
    parts = [metadata, *values, *(file.read_text() for file in files)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
