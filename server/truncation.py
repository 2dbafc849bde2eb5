"""Text of callers, cut to what logs, spans, and statuses can hold."""

from __future__ import annotations

# A status travels in headers, and peers take 8 KiB of those; and a log line
# that repeats what a caller sent must not be as long as that.
TEXT_BYTES_MAX = 600


def truncated(text: str, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """A text of at most `bytes_max` bytes of UTF-8, and three dots where it was longer."""
    # Of characters first: a text of megabytes is not worth encoding.
    data = text[: bytes_max + 1].encode("utf-8", "replace")
    if len(data) <= bytes_max:
        return text
    return data[:bytes_max].decode("utf-8", "ignore") + "..."
