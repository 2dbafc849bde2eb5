"""From what `--model` says to a file on this machine."""

from __future__ import annotations

from pathlib import Path

from llm_serving_engine.backends.models import hub
from llm_serving_engine.backends.models.builtin import builtin_path
from llm_serving_engine.backends.models.errors import ModelNotFound
from llm_serving_engine.backends.models.reference import BuiltinModel, FileModel, ModelReference


def resolve(reference: ModelReference, *, progress: bool) -> Path:
    """The file that a reference means, fetched from the hub where it is not in the cache.

    What is in the cache is taken as it is, without asking the hub for news:
    a server starts without a network, and with the same file as the last time.

    Args:
        reference: Which model.
        progress: Show the progress of a download, on a terminal.

    Raises:
        ModelNotFound: There is no such file, or the built-in model is not installed.
        HubError: The hub does not give it.
    """
    if isinstance(reference, BuiltinModel):
        return builtin_path()
    if isinstance(reference, FileModel):
        if not reference.path.is_file():
            raise ModelNotFound(
                f"there is no file {reference.path}; a model of the hub is hf:OWNER/REPO[/FILE]"
            )
        return reference.path
    return hub.cached_path(reference) or hub.download(reference, progress=progress)
