"""The name and version under which the server appears in traces and metrics."""

from __future__ import annotations

from importlib import metadata

SERVICE_NAME = "llm-serving-engine"


def service_version() -> str:
    """The version of the installed distribution."""
    return metadata.version(SERVICE_NAME)
