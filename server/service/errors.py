"""What callers are told of errors that are not theirs."""

from __future__ import annotations

INTERNAL_MESSAGE = "the server failed; its log says why"
