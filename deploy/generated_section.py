"""Replaces the generated section of a document, or checks that it is fresh."""

from __future__ import annotations

import sys
from pathlib import Path


def update(document: Path, begin: str, end: str, content: str) -> int:
    """Write the section, or with `--check` compare it. Return the exit code.

    Args:
        document: The file.
        begin: The line before the section.
        end: The line after it.
        content: The generated text.

    Raises:
        ValueError: The document does not have each line once.
    """
    text = document.read_text()
    if (text.count(begin), text.count(end)) != (1, 1):
        raise ValueError(f"{document.name} needs one section from {begin} to {end}")
    before, rest = text.split(begin)
    fresh = f"{before}{begin}\n\n{content}\n\n{end}{rest.split(end)[1]}"
    if "--check" not in sys.argv[1:]:
        document.write_text(fresh)
    elif text != fresh:
        sys.stderr.write(f"error: {document.name} is stale; run: make diagrams\n")
        return 1
    return 0
