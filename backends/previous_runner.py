"""Passes the first runner's capabilities to the runners that replace it.

A replacement has the same file, library, machine, and shape. Repeating the
probes and measurements of the first load would take most of a restart's time.
"""

from __future__ import annotations

from llm_serving_engine.scheduler.step import Capabilities

_capabilities: Capabilities | None = None


def remember(capabilities: Capabilities | None) -> None:
    """Store the capabilities of this server's first runner, in a replacement's process."""
    global _capabilities
    _capabilities = capabilities


def recall() -> Capabilities | None:
    """Return the first runner's capabilities; None in the first runner itself."""
    return _capabilities
