"""The messages for errors that a caller did not cause."""

from __future__ import annotations

INTERNAL_MESSAGE = "the server failed; its log says why"
