"""Why a model cannot be had.

    ModelError
    ├── InvalidReference  what `--model` says cannot be understood
    ├── ModelNotFound     there is no such file, package, or cached copy
    ├── ModelFileError    the file is there and cannot be used
    ├── HubError          the hub does not give the file
    │   └── HubUnreachable  it cannot be asked
    ├── QuantizeError     the file cannot be written in another type
    └── LibraryMissing    llama.cpp is not installed
        └── LibraryUnsuitable  it is compiled for another CPU

`str(error)` is one line for whoever runs the command: it may name paths.
"""

from __future__ import annotations


def printable(text: str) -> str:
    """A text that may hold the name of a file that is not UTF-8, as text that can be sent."""
    return text.encode("utf-8", "replace").decode("utf-8")


class ModelError(Exception):
    """The root. Its words can be printed whatever the file is called."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class InvalidReference(ModelError):
    """The value of `--model` is not a valid reference."""


class ModelNotFound(ModelError):
    """There is no such file, package, or cached copy."""


class ModelFileError(ModelError):
    """The file is there and cannot be used: truncated, not GGUF, or of an unknown architecture."""


class HubError(ModelError):
    """The hub does not give the file."""


class HubUnreachable(HubError):
    """The hub cannot be asked: there is no network, or working offline is wanted."""


class QuantizeError(ModelError):
    """The file cannot be written in another type."""


class LibraryMissing(ModelError):
    """llama.cpp is not installed, or its library does not load."""


class LibraryUnsuitable(LibraryMissing):
    """llama.cpp is compiled for another CPU, and would die here of SIGILL."""
