"""Reports the configuration: its sources, and the settings that are not defaults."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from llm_serving_engine.server.config import ENVIRONMENT_PREFIX, ServerConfig
from llm_serving_engine.server.doctor.finding import Finding, problem

SECTION = "configuration"


def look_at_configuration(config: ServerConfig, file: Path | None) -> Iterator[Finding]:
    """Report the sources of settings, and each setting that is not its default.

    Args:
        config: The configuration in force.
        file: The TOML file that was given.
    """
    variables = sorted(name for name in os.environ if name.startswith(ENVIRONMENT_PREFIX))
    yield Finding(SECTION, "file", "none" if file is None else str(file))
    yield Finding(SECTION, "environment", ", ".join(variables) or "no variables")
    for name, value in differences(config):
        yield Finding(SECTION, name, value)


def invalid_configuration(error: Exception, file: Path | None) -> Iterator[Finding]:
    """Report the problems of an invalid configuration, one line each."""
    where = "the environment or the options" if file is None else f"{file} or in the environment"
    for line in str(error).splitlines():
        yield problem(SECTION, "invalid", line, f"correct it in {where}")


def differences(config: ServerConfig) -> Iterator[tuple[str, str]]:
    """The settings that are not their defaults: name and value."""
    # What the class itself says, whatever the environment does.
    default = ServerConfig.model_construct()
    before = dict(_flat("", default.model_dump(mode="json")))
    for name, value in _flat("", config.model_dump(mode="json")):
        if value != before.get(name):
            yield name, str(value)


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if not isinstance(value, dict) or not value:
        yield prefix, value
        return
    for name, inner in value.items():
        yield from _flat(f"{prefix}.{name}".lstrip("."), inner)
