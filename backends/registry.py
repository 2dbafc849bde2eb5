"""The backends there are, by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

from llm_serving_engine.backends.backend import Backend, BackendConfig

Progress = Callable[[float], None]
"""Called with the fraction of a model that is loaded, from 0 to 1."""

BackendFactory = Callable[[str, BackendConfig, Progress], Backend]
"""Loads the model file at a path. Raises LoadError."""

# Imported when they are used: a backend's library is needed in its runner only.
BACKENDS = {
    "llama.cpp": "llm_serving_engine.backends.llama_cpp.backend:LlamaCppBackend",
    "scripted": "llm_serving_engine.backends.scripted:ScriptedBackend",
}


def load_factory(name: str) -> BackendFactory:
    """The factory of the backend `name`. Raises KeyError where there is none."""
    module, _, attribute = BACKENDS[name].partition(":")
    return cast(BackendFactory, getattr(importlib.import_module(module), attribute))
