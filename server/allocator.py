"""Configures the C library's allocator for messages of megabytes."""

from __future__ import annotations

import ctypes
import os

# From glibc's malloc.h.
_ARENAS_MAX, _MAPPED_FROM_BYTES = -8, -3
LARGE_BYTES = 1024 * 1024


def bound_free_memory() -> None:
    """Make glibc return the memory of large messages. Call before threads are started.

    By itself, glibc makes an arena for each of gRPC's threads, and keeps what
    is free in each of them: hundreds of megabytes after some hundreds of large
    messages. It also keeps blocks as large as any that was freed before.

    Does nothing where the C library is another one. Variables of the
    environment that set the same go first.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    if "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_ARENAS_MAX, 1)
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        mallopt(_MAPPED_FROM_BYTES, LARGE_BYTES)
