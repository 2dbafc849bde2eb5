"""Server-sent events."""

from __future__ import annotations

import json
from typing import Any

DONE = b"data: [DONE]\n\n"
"""What ends a stream of OpenAI's APIs."""


def event(value: dict[str, Any]) -> bytes:
    """An event whose data is a JSON value."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return b"data: %b\n\n" % text.encode()


def named_event(name: str, value: dict[str, Any]) -> bytes:
    """An event with a name."""
    return b"event: %b\n%b" % (name.encode(), event(value))
