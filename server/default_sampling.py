"""The sampling of requests that leave fields out."""

from __future__ import annotations

from typing import Any

from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.server.config import GenerationConfig

_CONFIGURABLE = ("temperature", "top_p", "min_p", "top_k", "repetition_penalty")
SCALARS = (*_CONFIGURABLE, "presence_penalty", "frequency_penalty")
"""The fields of `Sampling` whose defaults callers can read."""


def default_sampling(config: GenerationConfig, info: ModelInfo | None) -> Sampling:
    """Return the default sampling of a model.

    A value of the configuration precedes one of the model's file, and that
    precedes the default of `Sampling`.
    """
    defaults: dict[str, Any] = dict(info.sampling) if info else {}
    for name in _CONFIGURABLE:
        if (value := getattr(config, name)) is not None:
            defaults[name] = value
    return Sampling(**defaults)


def scalars(sampling: Sampling) -> dict[str, Any]:
    """Return the values of `SCALARS` by name."""
    return {name: getattr(sampling, name) for name in SCALARS}
