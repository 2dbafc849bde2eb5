"""Resolves a reference of `--model` to a file on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.models import address, hub
from llm_serving_engine.backends.models.builtin import builtin_path
from llm_serving_engine.backends.models.errors import ModelFileError, ModelNotFound
from llm_serving_engine.backends.models.reference import (
    BuiltinModel,
    FileModel,
    ModelReference,
    UrlModel,
)
from llm_serving_engine.backends.models.split import first_part

_LISTED_MAX = 12


def resolve(
    reference: ModelReference,
    *,
    progress: bool,
    explain: Callable[[str], None] = lambda reason: None,
) -> Path:
    """Return the file of a reference; download it if it is not in the cache.

    What is in the cache is taken as it is, without asking the hub for news:
    a server starts without a network, and with the same file as the last time.

    Args:
        reference: Which model.
        progress: Show the progress of a download, on a terminal.
        explain: Told in one sentence why a file was chosen of several.

    Raises:
        ModelNotFound: There is no such file, a part of it is missing, or the
            built-in model is not installed.
        ModelFileError: It is no file, or cannot be opened.
        HubError: The hub does not give it.
    """
    if isinstance(reference, BuiltinModel):
        return builtin_path()
    if isinstance(reference, FileModel):
        return _checked(reference.path)
    if isinstance(reference, UrlModel):
        return address.cached_path(reference) or address.download(reference, progress=progress)
    cached = hub.cached_path(reference)
    if cached is not None:
        return cached
    memory = machine.available_memory()
    return hub.download(reference, progress=progress, memory=memory, explain=explain)


def _checked(path: Path) -> Path:
    """The path of a file that is there; the first part of a split model."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotFound(
            f"there is no file {path}; a model of the hub is hf:OWNER/REPO[/FILE]"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelFileError(f"{path} cannot be read: {reason}") from None
    if S_ISDIR(mode):
        raise ModelFileError(f"{path} is a folder; name a file: {_listed(path)}")
    if not S_ISREG(mode):
        raise ModelFileError(f"{path} is not a regular file")
    return first_part(path)


def _listed(folder: Path) -> str:
    """The model files in a folder, for a message."""
    try:
        names = sorted(each.name for each in folder.iterdir() if each.suffix == ".gguf")
    except OSError as error:
        return f"it cannot be listed ({error.strerror})"
    if not names:
        return "there is no GGUF file in it"
    return ", ".join(names[:_LISTED_MAX]) + (", ..." if len(names) > _LISTED_MAX else "")
