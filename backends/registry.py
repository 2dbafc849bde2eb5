"""Lists the backends by name, and chooses the one for a file."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import cast

from llm_serving_engine.backends.backend import BackendFactory, LoadError
from llm_serving_engine.backends.models.ggml_file import is_legacy
from llm_serving_engine.backends.models.info import ModelInfo

AUTO = "auto"
LLAMA_CPP = "llama.cpp"
CTRANSFORMERS = "ctransformers"
SCRIPTED = "scripted"

# Imported when they are used: a backend's library is needed in its runner only.
BACKENDS = {
    LLAMA_CPP: "llm_serving_engine.backends.llama_cpp.backend:LlamaCppBackend",
    CTRANSFORMERS: "llm_serving_engine.backends.ctransformers.backend:CTransformersBackend",
    SCRIPTED: "llm_serving_engine.backends.scripted:ScriptedBackend",
}


def check_name(name: str) -> str:
    """Return the name. Raises ValueError if it cannot name a backend."""
    if name == AUTO or name in BACKENDS or all(name.partition(":")):
        return name
    known = ", ".join((AUTO, *BACKENDS))
    raise ValueError(f"no backend {name!r}; there are {known}, or the import path module:Class")


def choose(name: str, path: Path) -> str:
    """The backend that `name` means for the file at `path`.

    llama.cpp runs what it can read, as it batches; what is left are legacy GGML files.
    """
    if name != AUTO:
        return name
    return CTRANSFORMERS if is_legacy(path) else LLAMA_CPP


def check_file(name: str, path: Path) -> None:
    """Check a model's file before a runner is started for it.

    Reads the header of GGUF files, with code of our own, which cannot end the process.

    Args:
        name: The backend, of `BACKENDS` or an import path. What other backends
            take is theirs to say.
        path: The model's file.

    Raises:
        ModelError: The file cannot be used.
    """
    if name == LLAMA_CPP or (name == CTRANSFORMERS and not is_legacy(path)):
        ModelInfo.read(path)


def load_factory(name: str) -> BackendFactory:
    """The class of a backend.

    Args:
        name: One of `BACKENDS`, or an import path.

    Raises:
        LoadError: There is none, it cannot be imported, or it is not a backend.
    """
    module, _, attribute = BACKENDS.get(name, name).partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        # A user's module can fail in any way.
        known = ", ".join(BACKENDS)
        raise LoadError(f"no backend {name!r} ({error}); there are {known}") from error
    if not (callable(found) and callable(getattr(found, "load_tokenizer", None))):
        raise LoadError(f"{name!r} is not a backend: it is no class with load_tokenizer")
    return cast(BackendFactory, found)
