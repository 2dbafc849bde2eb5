"""Computes a fingerprint of all that changes tokens: version, weights, and settings."""

from __future__ import annotations

import hashlib
from importlib import metadata

from llm_serving_engine.server.model import ServedModel


def fingerprint(model: ServedModel) -> str:
    """Return the fingerprint; equal ones with equal seeds give equal answers if batch-invariant."""
    try:
        status = model.path.stat()
        file = f"{model.path.name} {status.st_size} {status.st_mtime_ns}"
    except OSError:
        file = str(model.path)
    version = metadata.version("llm-serving-engine")
    parts = (version, model.backend, file, repr(model.runner_config))
    return (
        "fp_" + hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    )
