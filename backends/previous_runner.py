"""What an earlier runner of the same server found out about the model: its successors need not.

A runner that replaces a lost one has the same file, library, machine, and
shape. Trying again whether it keeps its bits, and measuring its speed again,
would be most of the time of a restart.
"""

from __future__ import annotations

from llm_serving_engine.scheduler.step import Capabilities

_capabilities: Capabilities | None = None


def remember(capabilities: Capabilities | None) -> None:
    """Take what the first runner of this server could do, in its successor's process."""
    global _capabilities
    _capabilities = capabilities


def recall() -> Capabilities | None:
    """What the first runner could do; None in the first runner itself."""
    return _capabilities
