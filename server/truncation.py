"""Truncates callers' text for logs, spans, and statuses."""

from __future__ import annotations

# A status is sent in headers, and peers accept 8 KiB of them. A log line that
# repeats a caller's text must not grow with it either.
TEXT_BYTES_MAX = 600


def truncated(text: str, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """Truncate a text to `bytes_max` bytes of UTF-8; three dots mark the cut."""
    # Cut by characters first, to encode no megabytes.
    data = text[: bytes_max + 1].encode("utf-8", "replace")
    if len(data) <= bytes_max:
        return text
    return data[:bytes_max].decode("utf-8", "ignore") + "..."
