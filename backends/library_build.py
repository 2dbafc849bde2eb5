"""Which build of llama.cpp is installed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path

_PACKAGE = "llama_cpp"
_DISTRIBUTION = "llama-cpp-python"


def library_version() -> str:
    """The version of llama-cpp-python; empty where it is not installed."""
    try:
        return importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return ""


def library_files() -> list[Path]:
    """The compiled files, sorted by name; none where it is not installed.

    They are found without being loaded.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    folders = (spec and spec.submodule_search_locations) or ()
    files = (file for folder in folders for file in Path(folder, "lib").glob("*"))
    return sorted(file for file in files if file.is_file() and not file.is_symlink())


def library_build() -> str:
    """Names a build: another compilation, or another version, gives another name."""
    stamps = [f"{file.name} {(about := file.stat()).st_size} {about.st_mtime_ns}"
              for file in library_files()]  # fmt: skip
    return hashlib.sha256("\0".join((library_version(), *stamps)).encode()).hexdigest()[:32]
